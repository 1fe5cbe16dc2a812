"""The charts of a run in Chromium: the real scripts and plotly.js, fed by a page of this test."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser_page import PATIENCE_MS, find_chromium, keep_screenshot
from playwright.sync_api import Page, sync_playwright

from stentor.ui.assets import PLOTLY_FILE, read_asset

PAGE = Path(__file__).with_name("charts_page.html")
# In the order in which the page of the playground must have them, too.
SCRIPTS = (
    *("chart_data.js", "chart_traces.js", "chart_layout.js", "chart_reader.js"),
    *("chart_pointer.js", "chart_controls.js", "chart_plot.js", "chart.js"),
)
STYLES = ("style.css", "monitor.css", "run.css", "charts.css")
CHART, MACHINE = "document.querySelector('.chart')", "document.querySelector('.machine-chart')"
LOSS = f"{CHART}.data.find(line => line.uid === 'loss')"
RANGE = f"{CHART}._fullLayout.xaxis.range"
EVIL = "<img src=x onerror='window.hacked = 1'>"
COUNT_DRAWINGS = f"""
(() => {{
  const react = Plotly.react;
  window.draws = 0;
  Plotly.react = (node, ...rest) => {{
    window.draws += node === {CHART};
    return react(node, ...rest);
  }};
}})()
"""
MARKS = [
    {"key": "base", "step": 0, "y": None, "title": "Base model", "texts": ["The river"]},
    {"key": "general-200", "step": 200, "title": EVIL, "texts": [f"The mill {EVIL}", "Once"]},
]
ALARMS = [
    {"step": 300, "alarm": "spike", "message": f"The loss jumped. {EVIL}", "state": "raised"},
    {"step": 350, "alarm": "slow", "message": "Was slow.", "state": "cleared"},
]
RUNS = [{"id": "one.1", "label": f"First try {EVIL}"}, {"id": "two", "label": "Second try"}]


def whole_page() -> str:
    styles = "\n".join(map(read_asset, STYLES))
    scripts = "\n".join(map(read_asset, SCRIPTS))
    page = PAGE.read_text(encoding="utf-8")
    return page.replace("STYLES\n", f"{styles}\n").replace("SCRIPTS\n", f"{scripts}\n")


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body, kind = whole_page().encode(), "text/html; charset=utf-8"
        if self.path.endswith(".js"):
            body, kind = PLOTLY_FILE.read_bytes(), "application/javascript"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@contextmanager
def opened(address: str, width: int = 1000) -> Iterator[Page]:
    """Open the page; whatever it complains of fails the test."""
    problems: list[str] = []
    chromium = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": width, "height": 1150})
            page.set_default_timeout(PATIENCE_MS)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(address)
            yield page
            assert page.evaluate("window.hacked") is None
            assert problems == []
        finally:
            browser.close()


def begin(page: Page, steps: int, **extra: Any) -> None:  # noqa: ANN401
    page.evaluate(f"begin({steps}, {json.dumps(extra)})")
    page.wait_for_function(f"{CHART}.data?.length > 0 && {MACHINE}.data?.length > 0")


def wait_until_drawn(page: Page, steps: int) -> None:
    """Wait until the newest step is in the line of the loss."""
    end = f"xOf({steps - 1}, charts.question().x)"
    page.wait_for_function(f"Math.abs({LOSS}.x.at(-1) * unit() - {end}) < 1e-6")


def zoom(page: Page, start: int = 300, end: int = 500) -> list[float]:
    """Drag a stretch of the loss panel (pixels from its left) and return the x range."""
    before = page.evaluate(RANGE)
    box = page.locator(".chart .nsewdrag").first.bounding_box()
    assert box
    page.mouse.move(box["x"] + start, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + end, box["y"] + 152, steps=4)
    page.mouse.up()
    page.wait_for_function(f"before => {RANGE}[0] !== before[0]", arg=before)
    after: list[float] = page.evaluate(RANGE)
    return after


def choose(page: Page, setting: str, value: str) -> None:
    page.locator(f"[data-setting={setting}]").select_option(value)


@pytest.mark.browser
def test_zoom_legend_hover_and_nodes_survive_updates_and_controls(address: str) -> None:
    """A chart that forgets where one looked is no use while data arrive."""
    with opened(address) as page:
        begin(page, 400, marks=MARKS, resumes=[150], nanAt=120)
        page.evaluate(f"window.nodes = [{CHART}, {MACHINE}]")
        entry = page.locator(".machine-chart .legendtoggle").nth(1)
        entry.click()
        hidden = f"{MACHINE}._fullData.filter(t => t.visible === 'legendonly').map(t => t.uid)"
        page.wait_for_function(f"{hidden}.length === 4")
        zoomed = zoom(page)
        page.wait_for_function(f"{MACHINE}._fullLayout.xaxis.range[0] === {zoomed[0]}")
        page.locator("[data-setting=isLog]").check()
        page.locator("[data-setting=smoothing]").focus()
        page.keyboard.press("Home")
        page.locator(".chart-menu summary").first.press("Enter")
        page.get_by_label("Gradient norm").uncheck()
        page.keyboard.press("Escape")
        box = page.locator(".chart .nsewdrag").first.bounding_box()
        assert box
        page.mouse.move(box["x"] + 300, box["y"] + 150)
        page.locator(".chart .hoverlayer .legend").wait_for()
        page.evaluate("advance(5)")
        wait_until_drawn(page, 405)
        assert page.locator(".chart .hoverlayer .legend").count() == 1
        assert page.evaluate(RANGE) == zoomed
        assert page.evaluate(f"{CHART}._fullLayout.yaxis.type") == "log"
        assert page.evaluate(hidden) == [f"gpu1_{name}" for name in page.evaluate("GPU_NAMES")]
        assert page.evaluate(f"{CHART}.data.filter(t => t.uid.includes('gradient')).length") == 0
        assert page.evaluate(f"{CHART} === nodes[0] && {MACHINE} === nodes[1]")
        assert page.evaluate(f"{LOSS}.y[120]") is None, "a gap stays a gap"
        page.locator(".chart .nsewdrag").first.dblclick(position={"x": 60, "y": 120})
        page.wait_for_function(f"{RANGE}[0] === 0")
        assert page.locator("[data-setting=range]").input_value() == "whole"


@pytest.mark.browser
def test_another_x_axis_is_asked_for_and_shows_the_same_stretch(address: str) -> None:
    with opened(address) as page:
        begin(page, 400)
        zoomed = zoom(page)
        choose(page, "x", "steps")
        page.wait_for_function(f"{LOSS}.x.at(-1) === 399")
        assert page.evaluate("[charts.question().x, state.changes]") == ["steps", 1]
        page.wait_for_function(f"{RANGE}[1] < 400")
        expected = [place / page.evaluate("TOKENS_PER_STEP") for place in zoomed]
        assert page.evaluate(RANGE) == pytest.approx(expected)
        choose(page, "x", "time")
        page.wait_for_function(f"{CHART}._fullLayout.xaxis.title.text.includes('seconds')")
        choose(page, "range", "twentieth")
        page.wait_for_function(f"{RANGE}[0] > 185 && {RANGE}[1] > 199")
        page.evaluate("advance(100)")
        page.wait_for_function(f"{RANGE}[0] > 230 && {RANGE}[1] > 249")


@pytest.mark.browser
def test_smoothing_and_clipping_are_what_they_say(address: str) -> None:
    with opened(address) as page:
        begin(page, 1_400, marks=MARKS)
        assert page.evaluate("smoothed([4, null, 2, 2], 0.5)") == pytest.approx(
            [4, None, 8 / 3, 16 / 7]
        )
        raw, smooth = (f"{CHART}.data.find(t => t.uid === 'loss{end}')" for end in ("", "-smooth"))
        assert page.evaluate(f"{raw}.opacity < 0.5 && {smooth}.y.length === {raw}.y.length")
        top = f"{CHART}._fullLayout.yaxis3.range[1]"
        assert page.evaluate(top) > 8, "the gradient's spikes decide"
        page.get_by_label("Clip outliers").check()
        page.wait_for_function(f"{top} < 3")
        assert page.evaluate(f"{CHART}._fullLayout.yaxis.range[1]") > 9, (
            "a steep start is no outlier"
        )
        page.get_by_text("beyond the axis").first.wait_for()
        for node in (CHART, MACHINE):
            wrong = f"Plotly.validate({node}.data, {node}.layout)"
            kinds = set(page.evaluate(f"({wrong} ?? []).map(one => one.code)"))
            assert kinds <= {"unused", "invisible"}, "no attribute that plotly.js does not know"


@pytest.mark.browser
def test_samples_are_pinned_to_the_loss_and_texts_stay_texts(address: str) -> None:
    bands = [{"name": EVIL, "title": EVIL, "start": 0, "end": 800_000}]
    with opened(address) as page:
        begin(page, 400, marks=MARKS, alarms=ALARMS, bands=bands)
        page.evaluate(f"charts.setRuns({json.dumps(RUNS)})")
        page.wait_for_function(f"{CHART}.data.find(t => t.uid === 'marks').x.length === 2")
        for name in ("spike", "slow"):
            page.locator(".chart .annotation-text", has_text=name).wait_for()
        assert page.locator(".chart .annotation-text", has_text="<img").count() == 1
        point = page.locator(".chart .tracemarks path.point, .chart .marks path.point").last
        box = point.bounding_box()
        assert box
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        note = page.locator(".chart-note", has_text="The mill <img")
        note.wait_for()
        assert "step 200" in note.inner_text()
        keep_screenshot(page, "charts-note")
        page.mouse.down()
        page.mouse.up()
        assert page.evaluate("opened") == ["general-200"]
        page.evaluate("charts.highlight('base')")
        page.wait_for_function(f"{CHART}.data.find(t => t.uid === 'marks').marker.size[0] > 12")


@pytest.mark.browser
def test_an_earlier_run_is_drawn_below_and_removed(address: str) -> None:
    """A dot in a run's name once broke Plotly, which makes a CSS class of each line's uid."""
    with opened(address) as page:
        begin(page, 400)
        page.evaluate(f"charts.setRuns({json.dumps(RUNS)})")
        page.get_by_text("Earlier runs").click()
        page.get_by_label("First try").check()
        others = f"{CHART}.data.filter(t => t.legendgroup === 'run-one.1')"
        page.wait_for_function(f"{others}.length === 4")
        question = page.evaluate("asked[0]")
        assert (question["run"], question["x"], question["from"]) == ("one.1", "tokens", None)
        page.locator(".chart .legendtext", has_text="First try <img").wait_for()
        assert page.evaluate(f"{others}.every(t => t.line.width < 1.5)")
        choose(page, "x", "steps")
        page.wait_for_function(f"{others}[0]?.x.at(-1) < 3000")
        keep_screenshot(page, "charts-overlay")
        assert json.loads(page.evaluate("localStorage['stentor-charts']"))["overlays"] == ["one.1"]
        page.get_by_label("First try").uncheck()
        page.wait_for_function(f"{others}.length === 0")


@pytest.mark.browser
def test_zooming_into_100_000_points_asks_for_that_stretch(address: str) -> None:
    with opened(address) as page:
        begin(page, 100_000)
        thinned = page.evaluate(f"{LOSS}.x.length")
        assert thinned < 2_000
        low, high = zoom(page)
        page.wait_for_function("asked.length === 1")
        question = page.evaluate("asked[0]")
        assert [question["from"], question["to"]] == pytest.approx([low, high])
        inside = f"{LOSS}.x.filter(x => x >= {low} && x <= {high}).length"
        page.wait_for_function(f"{inside} > 1000")
        assert page.evaluate(f"{LOSS}.x.every((x, i, all) => i === 0 || x > all[i - 1])")
        assert page.evaluate(f"{LOSS}.x.length") < 3_000
        choose(page, "range", "whole")
        page.wait_for_function(f"{LOSS}.x.length === {thinned}")
        assert page.evaluate("asked.length") == 1, "the whole run is here already"


@pytest.mark.browser
def test_a_burst_is_one_drawing_and_a_held_chart_waits(address: str) -> None:
    with opened(address) as page:
        begin(page, 400)
        wait_until_drawn(page, 400)
        page.evaluate(COUNT_DRAWINGS)
        page.evaluate("for (let turn = 0; turn < 40; turn += 1) advance(1)")
        wait_until_drawn(page, 440)
        assert page.evaluate("draws") <= 2
        box = page.locator(".chart .nsewdrag").first.bounding_box()
        assert box
        page.mouse.move(box["x"] + 100, box["y"] + 100)
        page.mouse.down()
        drawn = page.evaluate("draws")
        page.evaluate("advance(1)")
        page.wait_for_timeout(1_500)
        assert page.evaluate("draws") == drawn
        page.mouse.up()
        wait_until_drawn(page, 441)
        kept = page.evaluate("Array.from({length: 30}, () => advance(100)).map(t => t.wantsWhole)")
        assert not kept[0]
        assert kept[-1], "too many points are given back for a thinned curve"


@pytest.mark.browser
def test_a_phone_shows_less_and_damaged_settings_do_no_harm(address: str) -> None:
    damaged = {"x": "furlongs", "smoothing": "much", "panels": {"loss": 3}, "overlays": [7, "a/b"]}
    with opened(address, width=390) as page:
        page.evaluate(f"localStorage['stentor-charts'] = JSON.stringify({json.dumps(damaged)})")
        page.reload()
        page.evaluate("Object.assign(state, { gpus: 0 })")
        begin(page, 400, alarms=ALARMS, resumes=[150])
        assert page.evaluate("charts.question()") == {"x": "tokens"}
        assert not page.locator("[data-setting=x]").is_visible()
        page.get_by_text("Settings of the curves").click()
        assert page.get_by_label("Smoothing").is_visible()
        shown = page.evaluate(f"{MACHINE}.data.map(t => t.uid)")
        assert shown == ["cpu_percent", "memory_used", "process_memory"]
        assert page.evaluate(f"Object.keys({CHART}.layout).includes('yaxis2')") is False
        keep_screenshot(page, "charts-phone")
        page.evaluate("document.body.classList.add('dark')")
        page.wait_for_function(f"{CHART}.layout.paper_bgcolor === '#191f25'")
        keep_screenshot(page, "charts-phone-dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 800, "height": 1150})
        page.wait_for_function(f"{CHART}._fullLayout.width > 600")
