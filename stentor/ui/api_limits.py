"""How much a program may ask of the server: requests at once, and bytes of one request.

What can be known of a client is its address; a session it can invent. So the API counts addresses:
whoever sends many requests, under whatever names, has the turns of one visitor, and a school behind
one address shares them. Only this machine's own programs are told apart by their sessions. What
stands in X-Forwarded-For is believed of this machine, and of proxies named in the environment
variable FORWARDED_ALLOW_IPS (uvicorn's rule), since anybody can write it.
"""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stentor.errors import BusyError

# Of Gradio's threads (MAX_THREADS in ui/__init__.py) the page keeps what the API may not take.
MAX_RUNNING = 128
# A class of thirty at one address, two models each, has room.
MAX_PER_CLIENT = 64
# The longest prompt allowed is 100,000 characters, each at most 12 bytes as JSON escapes.
MAX_BODY_BYTES = 2_000_000
# Whoever has an address of version 6 has all of this network's.
IPV6_NETWORK_BITS = 64


def client_of(request: gr.Request) -> str:
    """Name whom a request counts for: an address, of version 6 its network; here a session."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:  # a socket file has none
        return host or "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return f"{address} {request.session_hash}"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), IPV6_NETWORK_BITS), strict=False))
    return str(address)


class Lobby:
    """How many requests of the API are being served, together and for each client. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: Counter[str] = Counter()

    @property
    def num_running(self) -> int:
        """Return how many requests are being served."""
        with self._lock:
            return self._running.total()

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Count a request for as long as it is served.

        Raises:
            BusyError: too many are, of this client or together.
        """
        with self._lock:
            self._check(client)
            self._running[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[client] -= 1
                if not self._running[client]:
                    del self._running[client]

    def _check(self, client: str) -> None:
        if self._running[client] >= MAX_PER_CLIENT:
            raise BusyError(
                f"{MAX_PER_CLIENT} of your requests are being served, which is the most. Wait for "
                "one of them to end, then send this one again."
            )
        if self._running.total() >= MAX_RUNNING:
            raise BusyError(
                f"{MAX_RUNNING} requests are being served, which is the most. Try again in a few "
                "seconds."
            )


class BoundedBodies:
    """ASGI middleware that refuses a request of too many bytes; files have a limit of their own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 before the body is read; one without a length ends where it is too long."""
        if scope["type"] != "http" or scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > MAX_BODY_BYTES:
            text = f"A request may have {MAX_BODY_BYTES:,} bytes; this one has {declared[:20]}."
            await JSONResponse({"error": text}, status_code=413)(scope, receive, send)
            return
        num_bytes = 0

        async def bounded() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            # What Gradio sees of a client that left.
            return message if num_bytes <= MAX_BODY_BYTES else {"type": "http.disconnect"}

        await self.app(scope, bounded, send)
