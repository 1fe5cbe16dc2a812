"""The real app, served to headless Chromium; both end with their test.

A page remembers everything that a visitor's console or network panel would show as wrong.
"""

import json
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, Response, sync_playwright

from stentor.ui import build_app, launch_options
from stentor.ui.context import AppContext

ARTEFACTS = Path(__file__).resolve().parent.parent / ".artefacts"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HOW_TO_GET_ONE = (
    "No Chromium found. Install one (Debian: apt-get install chromium), or name yours in the "
    "environment variable CHROMIUM."
)
# A busy machine may be slow; only a page that hangs is ended by it.
PATIENCE_MS = 60_000


@dataclass
class Visit:
    """An open page and what went wrong on it."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)

    def open_tab(self, title: str) -> None:
        """Press a tab and wait until it is shown."""
        tab = self.page.get_by_role("tab", name=title, exact=True)
        tab.click()
        self.page.wait_for_function("tab => tab.ariaSelected === 'true'", arg=tab.element_handle())

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != urlsplit(self.url).netloc:
            self.problems.append(f"foreign request: {request.url}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def watch(self) -> None:
        """Begin to listen."""
        self.page.on("console", self._on_console)
        self.page.on("request", self._on_request)
        self.page.on("response", self._on_response)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))


def find_chromium() -> str:
    """Return the browser's path; without one skip the test, or fail where one is required."""
    named = os.environ.get("CHROMIUM")
    path = named or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if path is None:
        if os.environ.get("STENTOR_REQUIRE_BROWSER"):
            pytest.fail(HOW_TO_GET_ONE)
        pytest.skip(HOW_TO_GET_ONE)
    return path


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def keep_screenshot(page: Page, name: str) -> None:
    """Keep a picture of the whole page as `.artefacts/<name>.png`, to be looked at by people."""
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


@contextmanager
def served(context: AppContext, port: int | None = None) -> Iterator[str]:
    """Serve the app and lend its address."""
    blocks = build_app(context)
    port = port or free_port()
    try:
        blocks.launch(
            server_name="127.0.0.1",
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(context.training_refusal),
        )
        yield f"http://127.0.0.1:{port}/"
    finally:
        blocks.close(verbose=False)


@contextmanager
def visit(url: str, query: str = "", **options: Any) -> Iterator[Visit]:  # noqa: ANN401
    """Open the page and wait for its header; `options` go to Playwright's `new_page`."""
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page(**options)
            page.set_default_timeout(PATIENCE_MS)
            visitor = Visit(page, url)
            visitor.watch()
            page.goto(url + query)
            page.wait_for_selector(".pair-banner b")
            yield visitor
        finally:
            browser.close()


def call_server_function(url: str, component: int, name: str, value: object) -> dict[str, Any]:
    """Call a function of a gr.HTML as anyone with the address could, without the page."""
    body = {"data": value, "component_id": component, "fn_name": name, "session_hash": "x"}
    request = urllib.request.Request(
        f"{url}gradio_api/component_server",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        answer: dict[str, Any] = json.loads(reply.read())
        return answer
