"""What a browser loads: style sheet, scripts, plotly.js, and headers that forbid everything else.

All of it comes from this server, so the page works in a room without internet. And what a browser
may not send: files, where training is refused.
"""

from pathlib import Path

import plotly
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stentor.home import assets_folder

# Relative, so that it also works below a reverse proxy's path. The version renews caches.
PLOTLY_URL = f"stentor-assets/plotly.min.js?v={plotly.__version__}"
PLOTLY_FILE = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
CACHE_SECONDS = 86_400
# Gradio evaluates its templates and inlines its styles, hence the two 'unsafe' words; what counts
# is 'self': no script, font, image or connection can reach another host.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' data: blob:; worker-src 'self' blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'self'"
)


def read_asset(name: str) -> str:
    """Return one of the project's own style sheets or scripts."""
    return (assets_folder() / name).read_text(encoding="utf-8")


def asset_routes() -> list[Route]:
    """Return the routes for files too large to be part of the page."""
    return [Route("/stentor-assets/plotly.min.js", _send_plotly)]


async def _send_plotly(request: Request) -> FileResponse:
    headers = {"Cache-Control": f"public, max-age={CACHE_SECONDS}"}
    return FileResponse(PLOTLY_FILE, media_type="application/javascript", headers=headers)


class NoUploads:
    """ASGI middleware that refuses files: Gradio takes them from anyone, whatever a page shows."""

    def __init__(self, app: ASGIApp, reason: str) -> None:
        self.app = app
        self.reason = reason

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 to an upload before its body is read; pass everything else on."""
        app = self.app
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith("/upload"):
            app = PlainTextResponse(self.reason, status_code=403)
        await app(scope, receive, send)


class SecurityHeaders:
    """ASGI middleware that adds the content policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and complete the headers of the answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "same-origin")
            await send(message)

        await self.app(scope, receive, send_with_headers)


def security_middleware(upload_refusal: str | None) -> list[Middleware]:
    """Return the middleware list for the web server, outermost first.

    `upload_refusal`: why nobody may upload a file, or None.
    """
    layers = [Middleware(SecurityHeaders)]
    return [*layers, Middleware(NoUploads, upload_refusal)] if upload_refusal else layers
