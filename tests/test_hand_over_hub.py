"""Pushing a model folder: what the Hub really receives, and what is refused before.

huggingface_hub reads HF_ENDPOINT when it is imported, so a child does the pushing.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import OptionError
from training.hand_over.hub import check_can_push, push

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "hf_a_token_of_this_test"
CHILD = """
import sys
from pathlib import Path
from stentor.errors import StentorError
from training.hand_over.hub import push
try:
    print(push(Path(sys.argv[1]), sys.argv[2], is_private=True))
except StentorError as error:
    print(f"error: {error}")
"""


class ReceivingHub(BaseHTTPRequestHandler):
    """Takes commits of small files; a repository called `full` is refused."""

    protocol_version = "HTTP/1.1"
    received: list[tuple[str, str, str, bytes]]

    def do_GET(self) -> None:
        self.answer({"sha": "0" * 40, "siblings": [], "id": "me/river"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.command, self.path, self.headers.get("Authorization", ""), body))
        path = self.path.partition("?")[0]
        if path.endswith("/repos/create"):
            self.answer({"url": f"http://{self.headers['Host']}/me/river"})
        elif "full" in path:
            self.answer({"error": "No storage left"}, 403)
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            self.answer({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        else:
            address = f"http://{self.headers['Host']}/me/river/commit/1"
            self.answer({"commitUrl": address, "commitOid": "1" * 40})

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""


@pytest.fixture
def hub() -> Iterator[tuple[str, list[tuple[str, str, str, bytes]]]]:
    received: list[tuple[str, str, str, bytes]] = []
    handler = type("Handler", (ReceivingHub,), {"received": received})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", received
    server.shutdown()
    server.server_close()


def push_in_child(endpoint: str, folder: Path, repository: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), repository],
        cwd=ROOT,
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(folder.parent / "hf"),
            "NO_PROXY": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert TOKEN not in result.stdout + result.stderr
    return result.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "river"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# River\n", encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def test_every_file_arrives_in_one_commit_with_the_token(
    hub: tuple[str, list[tuple[str, str, str, bytes]]], folder: Path
) -> None:
    endpoint, received = hub
    assert push_in_child(endpoint, folder, "me/river") == f"{endpoint}/me/river/commit/1"
    assert {token for _, _, token, _ in received} <= {f"Bearer {TOKEN}", ""}
    created = json.loads(received[0][3])
    assert created["name"] == "river" and created["visibility"] == "private"
    commits = [body for _, path, _, body in received if "/commit/" in path]
    assert len(commits) == 1
    lines = [json.loads(line) for line in commits[0].splitlines()]
    names = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert names == {"README.md", "config.json"}


def test_a_hub_that_refuses_leaves_the_folder_and_says_so(
    hub: tuple[str, list[tuple[str, str, str, bytes]]], folder: Path
) -> None:
    answer = push_in_child(hub[0], folder, "me/full")
    assert answer.startswith("error: me/full could not be pushed") and str(folder) in answer
    assert (folder / "README.md").is_file()


def test_nothing_is_pushed_without_a_token_or_a_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(OptionError, match="Set HF_TOKEN in the environment"):
        push(folder, "me/river", is_private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OptionError, match="HF_HUB_OFFLINE is set"):
        check_can_push("me/river")
    for name in ("river", "me/river/x", "../river", "me/ri ver"):
        with pytest.raises(OptionError, match="OWNER/NAME"):
            check_can_push(name)
