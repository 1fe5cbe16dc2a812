"""The Compare tab as Gradio serves it: nobody waits for another visitor, nothing stays behind."""

import http.client
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser_page import served
from tiny_variants import SECONDS
from watched_decoder import WatchedDecoder

from stentor.engine.engine import NUM_SLOTS, Engine
from stentor.ui import build_app
from stentor.ui.context import AppContext, make_context

LONG = 400


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.close()


@pytest.fixture
def engines(context: AppContext) -> list[Engine]:
    """Return the engines of the pair."""
    pair = (context.pair.left, context.pair.right)
    return [context.store.load(reference).engine for reference in pair]


@pytest.fixture
def decoders(engines: list[Engine]) -> list[WatchedDecoder]:
    """Return their decoders; each step waits, so that LONG tokens take 20 seconds."""
    return [WatchedDecoder(engine, fault=lambda _: time.sleep(0.05)) for engine in engines]


class Visitor:
    """A browser as the server sees it: one event stream, and the events it sends."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc
        self._session = uuid.uuid4().hex
        self._config = json.loads(self._ask("GET", "/config").read())

    def _ask(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        self._connection = http.client.HTTPConnection(self._place, timeout=SECONDS)
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body), headers)
        return self._connection.getresponse()

    def press_generate(self, max_new_tokens: int) -> Iterator[dict[str, Any]]:
        """Yield the messages of Gradio's queue about one press of Generate."""
        parts = {part["id"]: part for part in self._config["components"]}
        (button,) = (place for place, part in parts.items() if _name(part) == "generate")
        (event,) = (
            event
            for event in self._config["dependencies"]
            if [button, "click"] in [list(target) for target in event["targets"]]
        )
        given = {"prompt": "Once upon a time", "Max new tokens": max_new_tokens}
        values = [
            given.get(_name(parts[place]), parts[place]["props"].get("value"))
            if parts[place]["type"] != "state"
            else None
            for place in event["inputs"]
        ]
        body = {"data": values, "fn_index": event["id"], "session_hash": self._session}
        assert self._ask("POST", "/gradio_api/queue/join", body).status == 200
        for line in self._ask("GET", f"/gradio_api/queue/data?session_hash={self._session}"):
            if line.startswith(b"data:"):
                yield json.loads(line[5:])

    def leave(self) -> None:
        """Close the connection, as a browser does with its tab."""
        self._connection.close()


def _name(part: dict[str, Any]) -> str:
    props = part["props"]
    return str(props.get("elem_id") or props.get("label"))


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_event_of_the_page_waits_for_another_visitor(context: AppContext) -> None:
    """Gradio's default is one call of a handler at a time: generations came one after another."""
    blocks = build_app(context)
    wired = {block.name: block for block in blocks.fns.values()}
    assert {"_generate", "_continue", "_stop"} <= set(wired)
    for block in blocks.fns.values():
        limit = block.concurrency_limit
        assert limit is None or limit == "default", f"{block.name} is limited to {limit}"
    assert blocks._queue.default_concurrency_limit is None
    assert blocks._queue.max_size is None


@pytest.mark.usefixtures("decoders")
def test_two_visitors_generate_at_the_same_time(context: AppContext, engines: list[Engine]) -> None:
    with served(context) as url:
        first, second = Visitor(url), Visitor(url)
        long = first.press_generate(LONG)
        next(message for message in long if message["msg"] == "process_generating")
        *_, last = _until_the_end(second.press_generate(3))
        assert last["success"] and "3 of 3 tokens" in json.dumps(last["output"])
        assert all(engine.num_requests == 1 for engine in engines), "the long texts go on"
        first.leave()


def test_the_slots_of_a_visitor_who_leaves_are_free_at_once(
    context: AppContext, engines: list[Engine], decoders: list[WatchedDecoder]
) -> None:
    """A text would otherwise be generated to its end for nobody, while others wait."""
    with served(context) as url:
        visitor = Visitor(url)
        messages = visitor.press_generate(LONG)
        wait_for(lambda: next(messages)["msg"] == "process_generating")
        wait_for(lambda: all(engine.num_requests == 1 for engine in engines))
        visitor.leave()
        wait_for(lambda: all(engine.num_free_slots == NUM_SLOTS for engine in engines))
    assert all(len(decoder.steps) < LONG for decoder in decoders), "it did not come to its end"


def _until_the_end(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for message in messages:
        yield message
        if message["msg"] == "process_completed":
            return
