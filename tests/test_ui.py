"""The page as a whole: every tab, nothing from other hosts, no errors in the console."""

import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from browser_page import served, visit

import app
from stentor.ui import TABS, build_app, launch_options
from stentor.ui.assets import PLOTLY_URL
from stentor.ui.context import AppContext, make_context


@pytest.fixture
def context() -> Iterator[AppContext]:
    """Return the app's real services with the embedded demo pair."""
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


def fetch(url: str) -> tuple[str, dict[str, str]]:
    with urllib.request.urlopen(url) as reply:
        return reply.read().decode("utf-8"), {k.lower(): v for k, v in reply.headers.items()}


def test_the_page_has_every_tab(context: AppContext) -> None:
    config = build_app(context).get_config_file()
    titles = [c["props"]["label"] for c in config["components"] if c["type"] == "tabitem"]
    assert [tab.title for tab in TABS] == titles[: len(TABS)]
    assert config["title"] == "Stentor playground"
    assert not config["analytics_enabled"]


def test_no_theme_value_or_script_names_another_host() -> None:
    options = launch_options()
    theme: Any = options["theme"]
    assert theme._stylesheets == []
    assert "http" not in options["css"]
    assert options["ssr_mode"] is False


def test_what_is_served_names_no_other_host_to_load_from(context: AppContext) -> None:
    """Gradio's page template once loaded fonts and scripts from elsewhere, and could again."""
    with served(context) as url:
        html, headers = fetch(url)
        script, script_headers = fetch(url + PLOTLY_URL)
    loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=[\"']([^\"']*)", html)
    assert [target for target in loaded if re.match(r"(?:https?:)?//", target)] == []
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert "plotly" in script[:200]
    assert script_headers["content-type"].startswith("application/javascript")


@pytest.mark.parametrize(("space", "host"), [(None, "127.0.0.1"), ("someone/stentor", "0.0.0.0")])
def test_a_space_listens_to_the_world_and_a_laptop_to_itself(
    space: str | None, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["app.py"])
    if space:
        monkeypatch.setenv("SPACE_ID", space)
    flags = app.read_flags()
    assert (flags.host, flags.port) == (host, 7860)
    assert (flags.pair, flags.training) == ("auto", "auto")


@pytest.mark.browser
def test_every_tab_opens_offline_without_an_error(context: AppContext) -> None:
    """Zero console errors and zero requests to another host, on a wide screen and a phone."""
    with served(context) as url:
        for size in ({"width": 1280, "height": 900}, {"width": 390, "height": 844}):
            with visit(url, viewport=size) as visitor:
                for tab in TABS:
                    visitor.open_tab(tab.title)
                    # Long enough for what a tab asks for when it is opened first.
                    visitor.page.wait_for_timeout(700)
                    widest = visitor.page.evaluate("document.documentElement.scrollWidth")
                    assert widest == size["width"], f"{tab.title} is wider than the screen"
                assert visitor.problems == []


@pytest.mark.browser
def test_dark_and_light_follow_the_reader(context: AppContext) -> None:
    def background(visitor: Any) -> str:  # noqa: ANN401
        colour: str = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    with served(context) as url:
        with visit(url, color_scheme="light") as light:
            bright = background(light)
        with visit(url, color_scheme="dark") as dark:
            assert background(dark) != bright
        with visit(url, "?__theme=light", color_scheme="dark") as chosen:
            assert background(chosen) == bright


@pytest.mark.browser
def test_tabs_can_be_reached_by_keyboard_with_a_visible_ring(context: AppContext) -> None:
    with served(context) as url, visit(url) as visitor:
        tab = visitor.page.get_by_role("tab", name=TABS[0].title, exact=True)
        tab.focus()
        visitor.page.keyboard.press("Shift+Tab")
        visitor.page.keyboard.press("Tab")
        outline = visitor.page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return [document.activeElement.getAttribute('role'), s.outlineStyle,"
            " parseFloat(s.outlineWidth)]; })()"
        )
        assert outline == ["tab", "solid", 2]
