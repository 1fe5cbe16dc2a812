"""The services of the app, and what travels between tabs."""

import threading
import time

import gradio as gr
import pytest

from stentor.models import PAIRS
from stentor.store import EngineOptions
from stentor.ui.context import Page, compare_request, make_context


@pytest.mark.parametrize(
    ("training", "is_private", "is_space", "refusal"),
    [
        ("auto", True, False, None),
        ("auto", False, False, "other machines can reach"),
        ("on", False, False, None),
        ("off", True, False, "--training off"),
        ("auto", True, True, "public Space"),
        ("on", True, True, "public Space"),
        # A Space listens to the world; it once advised a flag that could not help.
        ("auto", False, True, "public Space"),
        ("off", False, True, "public Space"),
    ],
)
def test_who_may_train(
    training: str,
    is_private: bool,
    is_space: bool,
    refusal: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing switches training on in a public Space, not even a flag."""
    if is_space:
        monkeypatch.setenv("SPACE_ID", "someone/stentor")
    context = make_context("demo", training, is_private=is_private)
    if refusal is None:
        assert context.training_refusal is None
    else:
        assert refusal in str(context.training_refusal)
    assert context.allow_folders == (is_private and not is_space)
    assert (context.run_watch is None) == (refusal is not None), "no line where nobody may train"


def test_the_line_of_runs_goes_on_while_the_app_is_open() -> None:
    context = make_context("demo", is_private=True)
    context.watch_runs()
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("stentor-run-watch") == 1
    context.close()
    assert "stentor-run-watch" not in [thread.name for thread in threading.enumerate()]
    closed = make_context("demo", "off", is_private=True)
    closed.watch_runs()
    assert "stentor-run-watch" not in [thread.name for thread in threading.enumerate()]
    closed.close()


def test_the_demo_pair_is_shown_until_the_real_one_is_here() -> None:
    """Without the Hub the app is usable at once, whatever pair was asked for."""
    for asked in ("auto", "stentor"):
        context = make_context(asked, is_private=True)
        assert context.pair == PAIRS["demo"]
        assert context.fetcher.wait(30)
        assert context.fetcher.state().state == "unreachable"
    assert make_context("demo", is_private=True).fetcher.state().state == "idle"


def test_the_pair_is_loaded_before_anybody_asks(capsys: pytest.CaptureFixture[str]) -> None:
    """The first visitor once waited for it; what it takes is told when the app starts."""
    context = make_context("demo", is_private=True, options=EngineOptions("fp32", 1))
    context.preload()
    told = ""
    deadline = time.monotonic() + 120.0  # a first load also compiles the kernels
    while told.count("\n") < 2 and time.monotonic() < deadline:
        told += capsys.readouterr().err
        time.sleep(0.01)
    assert [line.partition(",")[0] for line in told.splitlines()] == [
        "Demo base: fp32",
        "Demo big: fp32",
    ]
    engine = context.store.load("demo-big").engine
    assert engine.num_threads == 1
    context.close()
    assert engine.num_requests == 0


def test_two_equal_requests_differ() -> None:
    """Sending the same prompt twice must arrive twice: a State that is equal says nothing."""
    first, second = (compare_request("Once", settings={"temperature": 0.2}) for _ in range(2))
    assert first.settings == (("temperature", 0.2),)
    assert first != second
    assert hash(first) != hash(second)


def test_send_and_receive_are_wired_through_one_state() -> None:
    with gr.Blocks() as blocks:
        page = Page(gr.Tabs(), gr.State(None), gr.State(("a", "b")))
        button, box = gr.Button(), gr.Textbox()
        page.send(button.click, lambda text: compare_request(text, right="c"), box)
        page.on_request(lambda request: request.prompt, box)
    send, receive = blocks.fns.values()
    assert send.fn is not None
    assert receive.fn is not None
    update, request, pair = send.fn(("a", "b"), "Hello")
    assert (update.selected, request.prompt, pair) == ("compare", "Hello", ("a", "c"))
    assert receive.fn(request) == "Hello"
    assert [target[0] for target in receive.targets] == [page.request._id]
    assert send.queue is not False  # a State that changed is only reported through the queue
