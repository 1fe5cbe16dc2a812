"""The line above the tabs: name, purpose, and which pair of models this browser looks at.

The banner describes the pair, and the state of the download of the real one, in HTML made here;
assets/banner.js only shows it. Knows no tab: a choice of models travels as a CompareRequest.
"""

from typing import Any

import gradio as gr

from stentor.engine.sampling import SamplingSettings
from stentor.errors import StentorError
from stentor.knobs import to_json
from stentor.models import PAIRS, Pair, find_model
from stentor.ui.assets import read_asset
from stentor.ui.context import (
    DEMO_PAIR,
    REAL_PAIR,
    AppContext,
    CompareRequest,
    Page,
    compare_request,
)
from stentor.ui.shared import HIDDEN, escape, file_size

BUSY = ("checking", "fetching")
HEADING = """
<header class="masthead">
  <h1>Stentor</h1>
  <p>Two small language models, side by side, and how one grew out of the other.</p>
</header>
"""


def build(context: AppContext) -> gr.HTML:
    """Create the header in the present layout and return the banner."""

    def describe_pair(chosen: list[str]) -> dict[str, Any]:
        """Return the banner's HTML and whether it will change by itself (called by the page)."""
        pair = (str(chosen[0]), str(chosen[1]))
        state = context.fetcher.state()
        return {"html": _banner(pair, context), "is_busy": state.state in BUSY}

    def fetch_pair() -> bool:
        """Start fetching the real pair, once for all visitors (called by the page)."""
        context.fetcher.start()
        return True

    with gr.Row(elem_id="header"):
        gr.HTML(HEADING, js_on_load=None)
        return gr.HTML(
            [context.pair.left, context.pair.right],
            html_template='<div class="pair-banner" aria-live="polite"></div>',
            js_on_load=read_asset("banner.js"),
            server_functions=[describe_pair, fetch_pair],
            elem_id="pair",
        )


def connect(banner: gr.HTML, page: Page) -> None:
    """Let the banner's buttons choose the pair, and let it show the chosen one."""
    page.send(banner.use_real, lambda: request_pair(PAIRS[REAL_PAIR]))
    page.send(banner.use_demo, lambda: request_pair(PAIRS[DEMO_PAIR]))
    page.pair.change(list, page.pair, banner, **HIDDEN)


def request_pair(pair: Pair) -> CompareRequest:
    """Return the request for a pair with what suits it; other settings stay as they are."""
    defaults = to_json(SamplingSettings())
    settings = {
        name: pair.sampling.get(name, defaults[name])
        for known in PAIRS.values()
        for name in known.sampling
    }
    return compare_request(settings=settings, left=pair.left, right=pair.right)


def _banner(chosen: tuple[str, str], context: AppContext) -> str:
    """Return what is on the page, then what is offered."""
    known = {(pair.left, pair.right): pair for pair in PAIRS.values()}
    pair = known.get(chosen)
    if pair is None:
        left, right = (_title(reference, context) for reference in chosen)
        return _line("Your choice", f"{left} and {right}", _button("use_demo", "Back to the demo"))
    if pair.name == REAL_PAIR:
        back = _button("use_demo", "Back to the demo")
        return _line("Real pair", pair.title, back)
    return _line(
        "Demo pair",
        "embedded stand-ins, not the card's models",
        _offer(context),
    )


def _title(reference: str, context: AppContext) -> str:
    """Return a model's title; one that is gone keeps the name it was chosen by."""
    try:
        return find_model(reference, allow_folders=context.allow_folders).title
    except StentorError:
        return reference


def _offer(context: AppContext) -> str:
    """Return the state of the real pair: a button, or how far the download is."""
    state = context.fetcher.state()
    if state.state == "ready":
        return _button("use_real", "Use the real pair")
    if state.state == "fetching":
        done, total = file_size(state.done_bytes), file_size(state.total_bytes)
        return (
            f'<span class="fetch">Fetching the real pair: {done} of {total} <progress '
            f'value="{state.done_bytes}" max="{state.total_bytes or 1}"></progress></span>'
        )
    if state.state == "checking":
        return '<span class="fetch">Looking for the real pair on the model hub</span>'
    if state.state == "idle":
        return _button("fetch_pair", "Fetch the real pair")
    word = "Failed" if state.state == "failed" else "Not reachable"
    return (  # the reason is long, so it unfolds
        _button("fetch_pair", "Fetch the real pair")
        + f"<details><summary>{word}</summary><p>{escape(state.message)}</p></details>"
    )


def _line(name: str, text: str, rest: str) -> str:
    return f"<span><b>{escape(name)}</b> {escape(text)}</span>{rest}"


def _button(action: str, text: str) -> str:
    return f'<button type="button" data-action="{action}">{escape(text)}</button>'
