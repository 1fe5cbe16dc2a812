"""A small real Hub of datasets for tests: one dataset of two parquet files, and lines that break.

`broken` holds the names of files during whose transfer the server hangs up.
"""

import json
import re
from http.server import BaseHTTPRequestHandler

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class DatasetHubHandler(BaseHTTPRequestHandler):
    """Serves the files of `org/text`; any other dataset does not exist."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    broken: set[str]
    hang_ups: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        if not re.match(r"(/api)?/datasets/org/text(/|$)", path):
            self.send({"error": "Repository not found"}, 404, "RepoNotFound")
        elif "/revision/" in path and not path.endswith(COMMIT):
            self.send({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        elif "/tree/" in path:
            self.send(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                    for name, content in self.files.items()
                ]
            )
        elif path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in self.files]
            self.send({"id": "org/text", "sha": COMMIT, "siblings": siblings})
        elif (name := path.rpartition("/")[2]) in self.files:
            self.send_file(name)
        else:
            self.send({"error": "Entry not found"}, 404, "EntryNotFound")

    def send(self, value: object, status: int = 200, error_code: str | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        if error_code:
            self.send_header("X-Error-Code", error_code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, name: str) -> None:
        whole = self.files[name]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        first, last = (int(asked[1]), int(asked[2] or len(whole) - 1)) if asked else (0, len(whole))
        content = whole[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.broken:
            self.hang_ups.append(name)
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output quiet."""
