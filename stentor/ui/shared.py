"""Small things every tab needs: the error boundary, a status line, escaping, numbers as text.

A warning for all templates of `gr.HTML`: put untrusted text in through `${value}` only, and escape
it first. Handlebars fields (`{{name}}`) become part of a JavaScript template literal, so a text
with `${...}` in it would be executed.
"""

import functools
import html
import inspect
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import gradio as gr

from stentor.errors import StentorError

Handler = TypeVar("Handler", bound=Callable[..., Any])
STATUS_KINDS = ("info", "good", "warning", "error")
# For every event: no veil over what is being updated, and no entry in the public API.
HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def guarded(handler: Handler) -> Handler:
    """Show a StentorError raised by a handler as a message, not a crash.

    A handler is a function, a generator function, or an async generator function.

    The event must go through the queue: with `queue=False` Gradio answers HTTP 500 and shows the
    word Error instead of the message. Every other exception is our mistake: Gradio logs it and
    shows a general error.
    """
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def flow(*values: Any, **named: Any) -> AsyncIterator[Any]:  # noqa: ANN401
            try:
                async with aclosing(handler(*values, **named)) as updates:
                    async for update in updates:
                        yield update
            except StentorError as error:
                raise user_error(error) from error

        return flow  # type: ignore[return-value]

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*values: Any, **named: Any) -> Iterator[Any]:  # noqa: ANN401
            try:
                yield from handler(*values, **named)
            except StentorError as error:
                raise user_error(error) from error

        return stream  # type: ignore[return-value]

    @functools.wraps(handler)
    def call(*values: Any, **named: Any) -> Any:  # noqa: ANN401
        try:
            return handler(*values, **named)
        except StentorError as error:
            raise user_error(error) from error

    return call  # type: ignore[return-value]


def user_error(error: StentorError) -> gr.Error:
    """Return the Gradio error that shows the message, escaped, without a traceback."""
    return gr.Error(escape(str(error)), title="That did not work", print_exception=False)


def escape(text: object) -> str:
    """Return text that is safe between HTML tags and inside quoted attributes."""
    return html.escape(str(text), quote=True)


def status_line(text: str, kind: str = "info") -> str:
    """Return HTML for one line of news that screen readers announce; `text` is plain text."""
    assert kind in STATUS_KINDS
    return f'<p class="status-line" data-kind="{kind}" role="status">{escape(text)}</p>'


def empty_state(title: str, text: str) -> str:
    """Return HTML for a place that has nothing to show yet and says how to fill it."""
    return f'<div class="empty-state"><b>{escape(title)}</b><p>{escape(text)}</p></div>'


def number(value: float | None, digits: int = 3) -> str:
    """Return a number of `digits` significant digits; NaN and infinities stay visible."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{max(0, digits - 1)}e}".replace("e-0", "e-").replace("e+0", "e")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def short_count(value: float) -> str:
    """Return a count in a few characters: 30,419,712 -> `30.4 M`."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if letter == "k" else limit
            return f"{value / scale:.3g} {letter}"
    return f"{value:,.0f}"


def file_size(num_bytes: float) -> str:
    """Return a size in kB, MB or GB (powers of 1,000)."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= limit:
            return f"{num_bytes / limit:.3g} {unit}"
    return f"{num_bytes:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time span in words that fit a table: `4 min 05 s`."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
