"""How much a program may ask: requests at once for an address, bytes of one request."""

import asyncio
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from stentor.errors import BusyError
from stentor.ui import MAX_THREADS
from stentor.ui.api_limits import (
    MAX_BODY_BYTES,
    MAX_PER_CLIENT,
    MAX_RUNNING,
    BoundedBodies,
    Lobby,
    client_of,
)


def request_from(host: str | None) -> gr.Request:
    client = SimpleNamespace(host=host) if host is not None else None
    raw: Any = SimpleNamespace(client=client, headers={}, query_params={})
    return gr.Request(request=raw, session_hash="chosen")


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("127.0.0.1", "127.0.0.1 chosen"),
        ("::1", "::1 chosen"),
        ("::ffff:127.0.0.1", "127.0.0.1 chosen"),
        ("testclient", "testclient"),
        (None, "unknown"),
    ],
)
def test_a_client_is_told_by_its_address(host: str | None, client: str) -> None:
    """A home has 2**64 addresses of version 6; each once could have been a visitor of its own."""
    assert client_of(request_from(host)) == client


def test_a_client_has_its_share_and_leaves_nothing_behind() -> None:
    lobby = Lobby()
    rooms = [lobby.enter("a") for _ in range(MAX_PER_CLIENT)]
    for room in rooms:
        room.__enter__()
    with pytest.raises(BusyError, match="of your requests"), lobby.enter("a"):
        pass
    with lobby.enter("b"):
        assert lobby.num_running == MAX_PER_CLIENT + 1
    for room in rooms:
        room.__exit__(None, None, None)
    assert lobby.num_running == 0
    with pytest.raises(ValueError), lobby.enter("a"):
        raise ValueError
    assert lobby.num_running == 0


def test_all_clients_together_leave_room_for_the_page() -> None:
    lobby = Lobby()
    rooms = [lobby.enter(str(place // 2)) for place in range(MAX_RUNNING)]
    for room in rooms:
        room.__enter__()
    with pytest.raises(BusyError, match="Try again"), lobby.enter("somebody new"):
        pass
    assert MAX_RUNNING < MAX_THREADS


class Asked:
    """One HTTP request to BoundedBodies, with an app behind it that reads the whole body."""

    def __init__(self, path: str, declared: str | None, *parts: bytes) -> None:
        self.parts = list(parts)
        self.seen: list[str] = []  # the kinds of messages that reached the app
        self.status = 0
        self.text = b""
        headers = [] if declared is None else [(b"content-length", declared.encode())]
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        asyncio.run(BoundedBodies(self.app)(scope, self.receive, self.send))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_more = True
        while has_more:
            message = await receive()
            self.seen.append(message["type"])
            has_more = message.get("more_body", False)
        await PlainTextResponse("read")(scope, receive, send)

    async def receive(self) -> Message:
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"")


def test_a_body_of_too_many_bytes_is_refused_before_it_is_read() -> None:
    """Gradio has a limit for files alone; a body of any size was kept in memory."""
    asked = Asked("/gradio_api/call/v2/generate", str(MAX_BODY_BYTES + 1), b"")
    assert (asked.status, asked.seen) == (413, [])
    assert b"may have 2,000,000 bytes; this one has 2000001" in asked.text
    assert Asked("/gradio_api/queue/join", "-1", b"").status == 413


def test_a_body_without_a_length_ends_where_it_is_too_long() -> None:
    half = b"x" * (MAX_BODY_BYTES // 2)
    assert Asked("/any", None, half, half).seen == ["http.request"] * 2
    asked = Asked("/any", None, half, half, b"x", half)
    assert asked.seen == ["http.request", "http.request", "http.disconnect"]


def test_files_have_a_limit_of_their_own() -> None:
    asked = Asked("/gradio_api/upload", str(MAX_BODY_BYTES * 2), b"x" * MAX_BODY_BYTES * 2)
    assert (asked.status, asked.seen) == (200, ["http.request"])
