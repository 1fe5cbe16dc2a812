"""A real receiver of webhook messages on this machine; it can be slow, refuse or send elsewhere."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0-a-secret-path"
PATIENCE_SECONDS = 30.0


class Receiver:
    """What arrived at `address`, and what is answered: each status in turn, then the last."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/hooks/{SECRET}"
        self.statuses = [200]
        self.messages: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.held = threading.Event()  # clear: no answer until it is set
        self.held.set()
        self._arrived = threading.Condition()

    def take(self, path: str, message: dict[str, Any]) -> int:
        with self._arrived:
            self.paths.append(path)
            self.messages.append(message)
            self._arrived.notify_all()
            status = self.statuses[0]
            del self.statuses[: len(self.statuses) > 1]
        self.held.wait(PATIENCE_SECONDS)
        return status

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Return the messages once there are so many."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.messages) >= count, PATIENCE_SECONDS)
            return list(self.messages)


class _Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        message = json.loads(self.rfile.read(length), parse_constant=lambda name: 1 / 0)
        assert self.headers["Content-Type"] == "application/json"
        status = self.receiver.take(self.path, message)
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Serve in a thread for the length of the block."""

    class Handler(_Handler):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.receiver = Receiver(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield Handler.receiver
        finally:
            Handler.receiver.held.set()
            server.shutdown()
