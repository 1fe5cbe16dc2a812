"""Messages to a webhook, received by a real server on this machine."""

import math
import socket
import threading
from collections.abc import Iterator

import pytest
from webhook_server import SECRET, Receiver, receiver

from stentor.errors import OptionError
from stentor.notify import (
    MOST_WAITING,
    WEBHOOK_VARIABLE,
    Message,
    Notifier,
    open_notifier,
    post,
    tell_end,
    webhook_address,
)
from stentor.runs import Status, create_run


@pytest.fixture
def server() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def alarm(
    message: str = "The loss jumped.", value: float | None = None, limit: float | None = None
) -> Message:
    return Message("r-1", "spike", "raised", message, "general", 7, value, limit)


def test_a_message_says_what_where_and_when_and_shows_in_a_chat(server: Receiver) -> None:
    assert post(server.address, alarm(value=7.5, limit=4.0)) is None
    assert server.paths == [f"/hooks/{SECRET}"]
    got = server.messages[0]
    assert got.pop("time").endswith("Z") and got["host"] == socket.gethostname()
    text = f"Alarm (spike) in run r-1 on {got.pop('host')}: The loss jumped."
    assert got == {
        "run": "r-1",
        "alarm": "spike",
        "state": "raised",
        "message": "The loss jumped.",
        "stage": "general",
        "step": 7,
        "value": 7.5,
        "limit": 4.0,
        "text": text,
        "content": text,
        "allowed_mentions": {"parse": []},
    }


def test_nan_is_no_json_and_a_text_calls_no_channel(server: Receiver) -> None:
    """A receiver refused `NaN`, and <!channel> in the text of a user would wake everybody."""
    assert post(server.address, alarm("<!channel> & " + "x" * 9_999, value=math.nan)) is None
    got = server.messages[0]
    assert got["value"] is None and "&lt;!channel&gt; &amp; x" in got["text"]
    assert len(got["content"]) < 2_000


@pytest.mark.parametrize("status", [301, 302, 307, 403, 500])
def test_what_is_wrong_is_told_without_the_address(server: Receiver, status: int) -> None:
    server.statuses = [status]
    assert post(server.address, alarm()) == f"it answers with HTTP status {status}"
    assert len(server.paths) == 1, "a redirected message would arrive as something else"


def test_nobody_there_and_nobody_answering_are_told_apart(server: Receiver) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        problem = post(f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}", alarm())
    assert problem == "it cannot be reached (ConnectionRefusedError)"
    server.held.clear()
    assert post(server.address, alarm(), seconds=0.05) == "no answer within 0.05 s"


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/s3cret",
        "host/s3cret",
        "http://",
        "http:///s3cret",
        "http://host:port/s3cret",
        "http://host/s3\ncret",
        "http://[s3cret",
        "file:///s3cret",
        "http://höst/s3cret",
    ],
)
def test_a_bad_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(OptionError, match="is no address that starts with http") as caught:
        webhook_address({WEBHOOK_VARIABLE: address})
    assert "s3cret" not in str(caught.value)


def test_no_address_means_no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    before = threading.active_count()
    notifier, problem = open_notifier(print)
    notifier.tell(alarm())
    notifier.close()
    assert problem is None and threading.active_count() == before
    monkeypatch.setenv(WEBHOOK_VARIABLE, "nonsense")
    assert open_notifier(print)[1]
    monkeypatch.setenv(WEBHOOK_VARIABLE, "https://example.org/hook")
    assert open_notifier(print)[1] is None


def test_messages_arrive_in_order_and_are_tried_again(server: Receiver) -> None:
    said: list[str] = []
    server.statuses = [500, 503, 200]
    notifier = Notifier(server.address, said.append, pauses=(0.0, 0.0, 0.0))
    for word in ("one", "two"):
        notifier.tell(alarm(word))
    notifier.close()
    assert [message["message"] for message in server.messages] == ["one", "one", "one", "two"]
    assert said == []


def test_a_problem_is_said_once_and_names_no_address(server: Receiver) -> None:
    said: list[str] = []
    server.statuses = [404]
    notifier = Notifier(server.address, said.append, pauses=(0.0,))
    for _ in range(3):
        notifier.tell(alarm())
    notifier.close()
    assert said == ["The webhook was not told: it answers with HTTP status 404."]


def test_a_receiver_that_hangs_holds_nothing_up(server: Receiver) -> None:
    server.held.clear()
    notifier = Notifier(server.address, print)
    for _ in range(2 * MOST_WAITING):
        notifier.tell(alarm())
    notifier.close(seconds=0.01)
    assert len(server.messages) <= 1


def test_an_end_is_told_in_the_words_of_the_status(server: Receiver) -> None:
    run = create_run({}, "tiny")
    notifier = Notifier(server.address, print)
    tell_end(notifier, run, Status(state="finished", stage="story", step=1_200))
    tell_end(notifier, run, Status(state="died", error="Died at step 3 of story."))
    notifier.close()
    ends = [(m["alarm"], m["state"], m["message"], m["step"]) for m in server.messages]
    assert ends == [
        ("end", "finished", "At step 1,200 of story.", 1_200),
        ("end", "died", "Died at step 3 of story.", 0),
    ]
    assert server.messages[1]["text"].endswith(": died. Died at step 3 of story.")
