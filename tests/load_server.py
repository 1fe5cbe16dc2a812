"""The app as a server for tests: in this process, or as a process of its own.

In this process its engines can be looked at; as a process of its own it is what README starts.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from browser_page import free_port, served
from load_client import Client

from stentor.engine.engine import Engine
from stentor.ui.context import AppContext, make_context

ROOT = Path(__file__).resolve().parent.parent
MODEL = "demo-base"
PROMPT = "The river runs"
# A busy machine may be slow; only what hangs is ended by it.
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """The app with the demo pair, in this process."""

    url: str
    context: AppContext

    @property
    def client(self) -> Client:
        return Client(self.url)

    @property
    def engine(self) -> Engine:
        """Return the engine of MODEL."""
        return self.context.store.load(MODEL).engine


@contextmanager
def local_server() -> Iterator[Server]:
    """Serve the app in this process; at the end its engines must be as they were at the start."""
    context = make_context("demo", is_private=True)
    try:
        with served(context) as url:
            server = Server(url, context)
            yield server
            wait_until(lambda: server.engine.num_requests == 0)
            assert server.engine.num_free_slots == server.engine.num_slots
    finally:
        context.close()


@contextmanager
def app_process(home: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run app.py as README does, with the demo pair; lend its address and its process."""
    port = free_port()
    with (home / "app.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--pair", "demo"],
            cwd=ROOT,
            env={**os.environ, "STENTOR_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_until(lambda: process.poll() is not None or _answers(url))
        assert process.poll() is None, (home / "app.log").read_text()
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except (URLError, OSError):
        return False


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for something that must become true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
