"""A visitor's whole afternoon in headless Chromium, against the app as README starts it.

One real process runs app.py, a real child trains. No request leaves the machine and the console
stays empty of errors.
"""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_page import Visit, find_chromium, free_port, visit

from stentor.jobs import terminate
from stentor.runs import Run, current_status

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
# Both models of the demo pair go on from it to the limit, so that there is time for a Stop.
PROMPT = "The old lighthouse stood at the end of the road, and"
# A click from outside the page would take longer than the embedded models need for a text.
STOP_WHEN_RUNNING = """([button, side]) => {
  window.wasRunning = false;
  const pane = document.querySelector(`#pane-${side} .pane`);
  new MutationObserver((_, observer) => {
    if (pane.dataset.state !== "running") return;
    observer.disconnect();
    window.wasRunning = true;
    document.querySelector(button).click();
  }).observe(pane, { attributes: true });
}"""

pytestmark = pytest.mark.browser


class App:
    """The playground as a process of its own, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start app.py and wait until its page answers."""
        with (self.home / "app.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(self.port)],
                cwd=ROOT,
                env={**os.environ, "STENTOR_HOME": str(self.home), "HF_HUB_OFFLINE": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, (self.home / "app.log").read_text()
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End the app as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def newest_run(self) -> Run:
        """Return the run that the page started."""
        return Run(max((self.home / "runs").iterdir()))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    find_chromium()
    app = App(tmp_path_factory.mktemp("browser-home"))
    app.start()
    yield app
    app.kill()
    if (app.home / "runs").is_dir():
        terminate(app.newest_run())


@pytest.fixture
def visitor(app: App) -> Iterator[Visit]:
    with visit(app.url, viewport={"width": 1280, "height": 900}) as visitor:
        yield visitor
        assert visitor.problems == []


def text_of(visitor: Visit, selector: str) -> str:
    return visitor.page.inner_text(selector)


def wait_for_text(visitor: Visit, selector: str, part: str) -> None:
    visitor.page.wait_for_function(
        "([selector, part]) => document.querySelector(selector)?.innerText.includes(part)",
        arg=[selector, part],
    )


def wait_until_done(visitor: Visit, side: str) -> None:
    """Wait until a side has all its text, whether it ended by itself or at the token limit."""
    visitor.page.wait_for_selector(f"#pane-{side} .pane[data-state=done] .pane-figures")


def stop_at_the_first_word(visitor: Visit, button: str, side: str) -> None:
    """Generate and press a Stop as soon as a side runs, until that was quicker than the model."""
    page = visitor.page
    for _ in range(30):
        page.evaluate(STOP_WHEN_RUNNING, [button, side])
        page.click("#generate")
        page.wait_for_function("() => window.wasRunning")
        for each in ("left", "right"):
            wait_until_done(visitor, each)
        if "stopped" in text_of(visitor, f"#pane-{side} .pane-figures"):
            return
    pytest.fail(f"{button} never stopped the {side} side")


def test_both_panes_fill_and_one_side_can_be_stopped(visitor: Visit) -> None:
    page = visitor.page
    page.get_by_text("Settings", exact=True).click()  # mounted by the time it is used below
    page.fill("#prompt textarea", PROMPT)
    wait_for_text(visitor, "#prompt-tokens", "of 512 tokens")
    page.click("#generate")
    for side in ("left", "right"):
        wait_until_done(visitor, side)
        assert "tokens/s" in text_of(visitor, f"#pane-{side} .pane-figures")
        assert text_of(visitor, f"#pane-{side} .pane-body").startswith(PROMPT)

    limit = page.get_by_label("Max new tokens").locator("visible=true").first
    limit.fill("450")
    limit.press("Enter")
    wait_for_text(visitor, "#match-badge", "max new tokens 450")
    stop_at_the_first_word(visitor, "#stop-left", "left")
    assert "stopped" not in text_of(visitor, "#pane-right .pane-figures")
    stop_at_the_first_word(visitor, "#stop", "right")


def test_a_side_with_its_own_settings_is_no_longer_matched(visitor: Visit) -> None:
    page = visitor.page
    assert "Matched" in text_of(visitor, "#match-badge")
    page.get_by_text("Settings", exact=True).click()
    page.click("#own-right input")
    temperature = page.get_by_label("Temperature").locator("visible=true").last
    temperature.wait_for()
    page.wait_for_timeout(500)  # the own settings are filled in after they appear
    temperature.fill("1.3")
    temperature.press("Enter")
    wait_for_text(visitor, "#match-badge", "Not matched")
    assert "0.8 / 1.3" in text_of(visitor, "#match-badge")


def test_nonsense_is_refused_kindly_and_nothing_is_lost(visitor: Visit) -> None:
    page = visitor.page
    page.click("#generate")
    page.get_by_text("The prompt is empty").first.wait_for()
    page.fill("#prompt textarea", "word " * 2000)
    wait_for_text(visitor, "#prompt-tokens", "it will be refused")
    page.click("#generate")
    wait_for_text(visitor, "#pane-left .pane-message", "512")
    page.fill("#prompt textarea", "<img src=x onerror=alert(1)> \U0001f600 \u202e\u05e9")
    page.click("#generate")
    wait_for_text(visitor, "#pane-left .pane-figures", "tokens/s")
    assert "<img src=x" in text_of(visitor, "#pane-left .pane-prompt")
    assert page.locator("#pane-left img").count() == 0


def test_history_is_restored_after_a_reload(visitor: Visit) -> None:
    page = visitor.page
    page.fill("#prompt textarea", PROMPT)
    page.click("#generate")
    for side in ("right", "left"):
        wait_until_done(visitor, side)
    written = text_of(visitor, "#pane-left .pane-text")
    page.reload()
    page.fill("#prompt textarea", "Something else")
    page.get_by_text("History of this browser").click()
    page.locator(".history-open").first.click()
    page.wait_for_function(
        "text => document.querySelector('#pane-left .pane-text').innerText === text", arg=written
    )
    assert page.input_value("#prompt textarea") == PROMPT
    page.click("#continue")  # an entry is shown, not what was kept before it
    page.get_by_text("There is nothing to continue yet").first.wait_for()


def test_a_category_runs_and_can_be_sent_to_compare(visitor: Visit) -> None:
    page = visitor.page
    visitor.open_tab("Prompts")
    page.get_by_label("Mathematics (10)").click()
    page.click("#run-category")
    wait_for_text(visitor, "#run-scores", "Demo big")
    page.wait_for_function("() => !document.querySelector('#export-json').disabled")
    with page.expect_download() as download:
        page.click("#export-json")
    assert '"prompt' in Path(download.value.path()).read_text(encoding="utf-8")
    page.get_by_label("The square root of 64 is").click()
    wait_for_text(visitor, "#prompt-detail", "The square root of 64 is")
    page.click("#send-prompt")
    page.wait_for_function(
        "() => document.querySelector('#prompt textarea').value === 'The square root of 64 is'"
    )


def test_training_is_watched_reloaded_found_again_stopped_and_opened(app: App) -> None:
    """The run belongs to its folder: page, browser and app come and go while it trains."""
    chart = "document.querySelector('#monitor .js-plotly-plot')"
    points = f"{chart}?.data?.find(trace => trace.name === 'Loss')?.x.length ?? 0"
    with visit(app.url, viewport={"width": 1280, "height": 900}) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_function(f"() => ({points}) >= 2")
        page.evaluate(f"() => {{ {chart}.dataset.mark = 'the first node' }}")
        before = page.evaluate(f"() => {points}")
        page.wait_for_function(f"() => ({points}) > {before}")
        assert page.evaluate(f"() => {chart}.dataset.mark") == "the first node"

        page.reload()
        visitor.open_tab("Training")
        page.wait_for_function(f"() => ({points}) > {before}")
        assert visitor.problems == []
    app.kill()
    assert current_status(app.newest_run()).state == "running"
    app.start()
    with visit(app.url, viewport={"width": 390, "height": 844}) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        page.wait_for_function(f"() => ({points}) > {before}")
        page.get_by_role("button", name="Stop and save").click()
        page.get_by_role("button", name="Resume").wait_for()
        assert current_status(app.newest_run()).state == "stopped"
        page.get_by_role("button", name="Open in Compare").first.click()
        wait_for_text(visitor, "#pane-right .pane-title", "practice")
        page.fill("#prompt textarea", "One morning")
        page.click("#generate")
        wait_for_text(visitor, "#pane-right .pane-figures", "tokens/s")
        assert visitor.problems == []
