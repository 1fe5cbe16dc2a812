"""Browsers that watch one run, as assets/train.js does: a question, an answer, a second of rest.

    python tests/watch_client.py http://127.0.0.1:7860 --run RUN_ID --watchers 10 --seconds 120

runs in a process of its own, so that the server does not pay for its watchers, and prints one JSON
object a watcher. Standard library only. Each keeps its connection open, as a browser does. With no
run it asks for nothing: what is left is what a question costs in itself.
"""

import argparse
import http.client
import json
import sys
import threading
import time
import traceback
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

POLL_SECONDS = 1.0  # POLL_MS of assets/train.js
PATIENCE_SECONDS = 60.0
AXIS = "steps"


@dataclass
class Watcher:
    """One browser and what it was told."""

    num_polls: int = 0
    num_wholes: int = 0
    num_parts: int = 0
    num_bytes: int = 0
    seconds: list[float] = field(default_factory=list)  # that each answer took
    steps: list[float] = field(default_factory=list)  # that were appended to its loss curve
    errors: list[str] = field(default_factory=list)


class Connection:
    """The server functions of the live view, over one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._connection = http.client.HTTPConnection(
            parts.hostname, parts.port, timeout=PATIENCE_SECONDS
        )
        self._session = uuid.uuid4().hex
        components = json.loads(self._send("GET", "/config"))["components"]
        found = [one["id"] for one in components if one["props"].get("elem_id") == "monitor"]
        self._component = found[0]

    def call(self, name: str, question: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Return the answer of a server function and its size in bytes."""
        body = {
            "data": question,
            "component_id": self._component,
            "fn_name": name,
            "session_hash": self._session,
        }
        answer = self._send("POST", "/gradio_api/component_server", json.dumps(body).encode())
        return json.loads(answer), len(answer)

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, body, headers)
        with self._connection.getresponse() as reply:
            answer = reply.read()
        assert reply.status == 200, f"{reply.status}: {answer[:200]!r}"
        return answer


def watch(watcher: Watcher, url: str, run: str, first_rest: float, end: float) -> None:
    """Ask again and again until `end`, on the clock of time.monotonic."""
    seen: dict[str, Any] = {"run": run, "offset": 0, "log_size": None, "parts_key": ""}
    try:
        connection = Connection(url)
        time.sleep(first_rest)
        while time.monotonic() < end:
            began = time.monotonic()
            question = {**seen, "x": AXIS, "wants_runs": False}
            reply, num_bytes = connection.call("watch_run", question)
            watcher.seconds.append(time.monotonic() - began)
            watcher.num_polls += 1
            watcher.num_bytes += num_bytes
            if run:
                take(watcher, seen, reply)
            time.sleep(POLL_SECONDS)
    except (OSError, AssertionError, ValueError, KeyError, http.client.HTTPException) as error:
        watcher.errors.append("".join(traceback.format_exception_only(error)).strip())


def take(watcher: Watcher, seen: dict[str, Any], reply: dict[str, Any]) -> None:
    """Keep what a page keeps of an answer."""
    assert "error" not in reply, reply["error"]
    for name in ("offset", "log_size", "parts_key"):
        seen[name] = reply[name]
    watcher.num_parts += "parts" in reply
    steps = reply["curves"].get("loss", {"x": []})["x"]
    if reply["is_whole"]:
        watcher.num_wholes += 1
        watcher.steps = steps[-1:]
    else:
        watcher.steps += steps


def run_watchers(url: str, run: str, num_watchers: int, seconds: float) -> list[Watcher]:
    """Let some watch at the same time, spread over a second, and return them."""
    watchers = [Watcher() for _ in range(num_watchers)]
    end = time.monotonic() + seconds
    threads = [
        threading.Thread(target=watch, args=(watcher, url, run, place / num_watchers, end))
        for place, watcher in enumerate(watchers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return watchers


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--run", default="")
    parser.add_argument("--watchers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=120.0)
    flags = parser.parse_args()
    watchers = run_watchers(flags.url, flags.run, flags.watchers, flags.seconds)
    json.dump([asdict(watcher) for watcher in watchers], sys.stdout)


if __name__ == "__main__":
    main()
