"""The error boundary, escaping, and numbers as text."""

import asyncio
import inspect
import math
from collections.abc import AsyncIterator, Iterator

import gradio as gr
import pytest

from stentor.errors import ModelError
from stentor.ui.shared import (
    duration,
    empty_state,
    escape,
    file_size,
    guarded,
    number,
    short_count,
    status_line,
)


def test_a_stentor_error_becomes_a_message_that_cannot_be_html() -> None:
    """A file name with a tag in it once was drawn as a tag by the message box."""

    @guarded
    def handler() -> None:
        raise ModelError("<img src=x onerror=alert(1)> is no model")

    with pytest.raises(gr.Error) as caught:
        handler()
    assert "<img" not in caught.value.message
    assert "&lt;img" in caught.value.message


def test_a_generator_stays_a_generator_and_keeps_its_signature() -> None:
    @guarded
    def stream(prompt: str, request: gr.Request) -> Iterator[str]:
        yield prompt
        raise ModelError("gone")

    assert inspect.isgeneratorfunction(stream)
    assert list(inspect.signature(stream).parameters) == ["prompt", "request"]
    running = stream("hello", gr.Request())
    assert next(running) == "hello"
    with pytest.raises(gr.Error, match="gone"):
        next(running)


def test_an_async_generator_stays_one_and_is_closed_with_its_wrapper() -> None:
    ended = []

    @guarded
    async def flow(prompt: str, request: gr.Request) -> AsyncIterator[str]:
        try:
            yield prompt
            raise ModelError("gone")
        finally:
            ended.append(prompt)

    async def take(prompt: str) -> None:
        running = flow(prompt, gr.Request())
        assert await anext(running) == prompt
        if prompt == "left":
            await running.aclose()  # type: ignore[attr-defined]
            return
        with pytest.raises(gr.Error, match="gone"):
            await anext(running)

    assert inspect.isasyncgenfunction(flow)
    assert list(inspect.signature(flow).parameters) == ["prompt", "request"]
    asyncio.run(take("left"))
    asyncio.run(take("stayed"))
    assert ended == ["left", "stayed"]


def test_our_own_mistakes_are_not_dressed_up() -> None:
    @guarded
    def handler() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        handler()


def test_text_is_escaped() -> None:
    assert escape("<a href='x'>\"&") == "&lt;a href=&#x27;x&#x27;&gt;&quot;&amp;"
    assert "<b>" not in status_line("<b>", "error")
    assert "<b>x" not in empty_state("<b>x", "<i>")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.14159, "3.14"),
        (0.0, "0"),
        (0.05, "0.0500"),
        (2e-4, "2.00e-4"),
        (1234.5, "1,234"),
        (3e9, "3.00e9"),
        (-12.345, "-12.3"),
        (None, "-"),
        (math.nan, "NaN"),
        (math.inf, "∞"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers_have_three_digits_and_hide_nothing(value: float | None, text: str) -> None:
    assert number(value) == text


def test_counts_sizes_and_times() -> None:
    assert [short_count(value) for value in (12, 9_999, 40_960, 30_419_712, 2.33e9)] == [
        "12",
        "9,999",
        "41 k",
        "30.4 M",
        "2.33 B",
    ]
    assert [file_size(value) for value in (12, 1_500, 2.5e6, 16e9)] == [
        "12 bytes",
        "1.5 kB",
        "2.5 MB",
        "16 GB",
    ]
    assert [duration(value) for value in (-1, 59.4, 245, 7_380)] == [
        "0 s",
        "59 s",
        "4 min 05 s",
        "2 h 03 min",
    ]
