"""The banner above the tabs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest

from stentor.engine.sampling import SamplingSettings
from stentor.hub import Fetcher, FetchState
from stentor.models import PAIRS
from stentor.ui import header
from stentor.ui.context import AppContext, make_context

DEMO = ["demo-base", "demo-big"]
REAL = ["stentor-30m", "stentor-big"]


class FrozenFetcher(Fetcher):
    """A fetcher that is where the test wants it."""

    def __init__(self, state: FetchState) -> None:
        super().__init__([])
        self.frozen = state

    def state(self) -> FetchState:
        return self.frozen


@pytest.fixture
def context() -> AppContext:
    return make_context("demo", is_private=False)


def banner_of(context: AppContext) -> Callable[[list[str]], dict[str, Any]]:
    with gr.Blocks():
        banner = header.build(context)
    describe: Callable[[list[str]], dict[str, Any]] = banner.describe_pair
    return describe


@pytest.mark.parametrize(
    ("state", "words", "is_busy"),
    [
        (FetchState("idle"), ["Fetch the real pair"], False),
        (FetchState("checking"), ["Looking for the real pair"], True),
        (FetchState("fetching", 30_000_000, 600_000_000), ["30 MB of 600 MB", "<progress"], True),
        (FetchState("ready"), ["Use the real pair"], False),
        (FetchState("failed", message="<b>no</b>"), ["&lt;b&gt;no", "Fetch the real pair"], False),
        # Once a full disk was called `Not reachable`, too.
        (FetchState("failed", message="No space left."), ["<summary>Failed</summary>"], False),
        (FetchState("unreachable"), ["<summary>Not reachable</summary>"], False),
    ],
)
def test_the_demo_pair_is_called_one_and_the_real_pair_offered(
    context: AppContext, state: FetchState, words: list[str], is_busy: bool
) -> None:
    answer = banner_of(replace(context, fetcher=FrozenFetcher(state)))(DEMO)
    assert "Demo pair" in answer["html"]
    for text in words:
        assert text in answer["html"]
    assert answer["is_busy"] == is_busy


def test_the_real_pair_and_other_choices_are_named(context: AppContext) -> None:
    describe = banner_of(context)
    assert "Stentor-30M and Stentor-Big" in describe(REAL)["html"]
    other = describe(["stentor-30m", "demo-big"])["html"]
    assert "Stentor-30M and Demo big" in other
    assert "Back to the demo" in other


def test_a_pair_comes_with_the_settings_that_suit_it() -> None:
    """The demo pair goes round in circles at the temperature of the real card's example."""
    demo, real = (dict(header.request_pair(PAIRS[name]).settings) for name in ("demo", "stentor"))
    assert demo == dict(PAIRS["demo"].sampling)
    defaults = SamplingSettings()
    assert real == {name: getattr(defaults, name) for name in demo} != demo


def test_a_stranger_cannot_probe_folders_or_inject_html(context: AppContext) -> None:
    html = banner_of(context)(["/etc", "<script>alert(1)</script>"])["html"]
    assert "/etc" in html  # said back, not looked up
    assert "<script>" not in html
