"""A small real Hub for tests: an HTTP server with its endpoints, and a child that fetches from it.

The name of the repository decides what goes wrong: `missing`, `down`, or what `failures` counts.
"""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).resolve().parent.parent
# Reads a Hub id per line, fetches it, answers with the final state and every number of bytes.
CHILD = """
import json, sys
from dataclasses import asdict
from stentor.hub import Fetcher, cached_folder
from stentor.models import ModelSpec
fetchers = {}
for line in sys.stdin:
    hub_id = line.strip()
    spec = ModelSpec("test", "Test", "", hub_id=hub_id)
    fetcher = fetchers.setdefault(hub_id, Fetcher([spec]))
    fetcher.start()
    fetcher.wait()
    folder = cached_folder(spec)
    print(json.dumps(asdict(fetcher.state()) | {"folder": folder and str(folder)}), flush=True)
"""


class HubHandler(BaseHTTPRequestHandler):
    """Serves one model folder; the name of the repository decides what goes wrong."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    requests: list[tuple[str, str]]
    failures: dict[str, int]  # repository name -> how often it still breaks

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.requests.append((self.command, path))
        if "/missing/" in path + "/":
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        elif "/down/" in path + "/":
            self.send({"error": "Internal error"}, 500)
        elif path.startswith("/api/models/"):
            self.send(self.description())
        elif "/resolve/" in path:
            self.send_file(path.rpartition("/")[2], path.split("/")[2], with_body=with_body)
        else:
            self.send({}, 404)

    def description(self) -> dict[str, Any]:
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            for name, content in self.files.items()
        ]
        return {"id": "org/model", "sha": COMMIT, "siblings": siblings}

    def send(
        self, value: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, content in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, name: str, repository: str, *, with_body: bool) -> None:
        content = self.files[name]
        breaks = with_body and name.endswith(".safetensors") and self.failures.get(repository, 0)
        if repository == "falls-over" and self.failures.get(repository) == 1 and breaks:
            self.failures[repository] -= 1
            self.send({"error": "Internal error"}, 500)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if breaks:
            self.failures[repository] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


class HubClient:
    """A child process that fetches from one endpoint into its own cache."""

    def __init__(self, endpoint: str, home: Path) -> None:
        self.cache = home / "hub"
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=ROOT,
            env={
                **os.environ,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(home),
                "HF_HUB_CACHE": str(self.cache),
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def fetch(self, hub_id: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{hub_id}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30.0)
        self.process.stdout.close()
