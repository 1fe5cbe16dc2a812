"""A run's page in a browser: time machine, buttons, alarms, and a real run that is killed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_page import keep_screenshot, served, visit
from live_run import (
    BASE_TEXT,
    DESKTOP,
    NUM_POINTS,
    PHONE,
    PROMPT,
    TOKENS_PER_STEP,
    append_sample,
    append_step,
    make_live_run,
    set_state,
    wait_for_text,
    wait_until,
)
from tiny_recipe import create, tiny_recipe

from stentor.jobs import terminate
from stentor.runs import Run, append_event, current_status, tail_log
from stentor.ui.context import AppContext, make_context
from training.recipe import with_settings
from training.settings import Source

EVIL = "<img src=x onerror=alert(1)>"
QUIET, LOUD = " runs on past a quiet old mill.", f" runs on past a loud old mill. {EVIL}"


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


@pytest.fixture
def live_run() -> Run:
    return make_live_run()


@pytest.mark.browser
def test_the_slider_walks_a_prompt_through_the_run_and_marks_what_changed(
    context: AppContext, live_run: Run
) -> None:
    append_sample(live_run, "general", 1, "checkpoint", QUIET)
    with served(context) as url, visit(url, viewport=DESKTOP) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        wait_for_text(visitor, "sample-label", "step 1")
        append_event(
            live_run, "validation", stage="general", step=3, tokens=3 * TOKENS_PER_STEP, loss=4.5
        )
        append_sample(live_run, "general", 3, "checkpoint", LOUD)
        wait_for_text(visitor, "sample-label", "step 3, loss 4.50 (3 of 3)")
        now, before = (
            page.locator("[data-part=sample-now]"),
            page.locator("[data-part=sample-before]"),
        )
        assert now.inner_text() == PROMPT + LOUD
        assert now.locator("ins").all_inner_texts() == ["loud", EVIL]
        assert before.locator("del").all_inner_texts() == ["quiet"]
        wait_for_text(visitor, "sample-change", "4 words new, 1 gone")
        keep_screenshot(page, "time-machine-desktop")
        slider = page.get_by_role("slider", name="Position in the run")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert "step 1" in str(slider.get_attribute("aria-valuetext"))
        page.keyboard.press("Home")
        assert "Base model" in page.locator("[data-part=sample-label]").inner_text()
        assert now.inner_text() == PROMPT + BASE_TEXT
        assert not before.is_visible()
        append_step(live_run, 4)
        append_sample(live_run, "general", 4, "checkpoint", QUIET)
        wait_for_text(visitor, "sample-label", "(1 of 4)")
        page.locator(".walk-stops button").last.click()
        assert "step 4" in page.locator("[data-part=sample-label]").inner_text()
        assert visitor.problems == []


@pytest.mark.browser
def test_every_button_reaches_its_action_and_deletion_asks_first(
    context: AppContext, live_run: Run
) -> None:
    with served(context) as url, visit(url, viewport=PHONE) as visitor:
        page = visitor.page

        def press(name: str) -> None:
            page.get_by_role("button", name=name, exact=True).click()

        visitor.open_tab("Training")
        press("Save now")
        wait_until(page, live_run.save_file.exists)
        press("Sample now")
        wait_until(page, live_run.sample_file.exists)
        press("Stop and save")
        page.get_by_role("button", name="Stopping").wait_for()
        assert live_run.stop_file.exists()
        keep_screenshot(page, "run-phone")
        set_state(live_run, "stopped", pid=None, process_start=None)
        press("Delete ...")
        dialog = page.get_by_role("dialog")
        assert live_run.id in dialog.inner_text() and "kB" in dialog.inner_text()
        page.keyboard.press("Escape")
        dialog.wait_for(state="hidden")
        assert live_run.folder.exists()
        press("Clone")
        page.wait_for_selector(".monitor[data-view=new]")
        page.locator(".run-menu select").select_option(live_run.id)
        press("Delete ...")
        press("Delete for good")
        page.wait_for_selector(".monitor[data-view=new]", state="attached")
        assert not live_run.folder.exists()
        assert visitor.problems == []


# The browser's own notifications, which nobody could read in a test, also note what they say.
LISTEN = """() => {
  window.told = [];
  window.Notification = class extends Notification {
    constructor(title, options) {
      super(title, options);
      window.told.push(options.body);
    }
  };
}"""


@pytest.mark.browser
def test_alarms_are_put_away_one_by_one_and_reach_who_asked_for_them(
    context: AppContext, live_run: Run
) -> None:
    def raise_alarm(name: str, step: int, message: str) -> None:
        place = {"stage": "general", "step": step, "tokens": step * TOKENS_PER_STEP}
        values = {"value": 9.0, "limit": 5.0, "message": message}
        append_event(live_run, "alarm", alarm=name, state="raised", **place, **values)

    raise_alarm("spike", 2, "The loss jumped.")
    with served(context) as url, visit(url, "?__theme=dark", viewport=DESKTOP) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        wait_for_text(visitor, "alarms", "The loss jumped.")
        page.wait_for_function("document.title.startsWith('1 alarm')")
        page.get_by_role("button", name="Dismiss").click()
        page.wait_for_function("document.title.includes('running')")
        assert not page.get_by_text("The loss jumped.").is_visible()
        page.context.grant_permissions(["notifications"])
        page.evaluate(LISTEN)
        page.get_by_role("checkbox", name="Tell me in this browser").check()
        wait_for_text(visitor, "news", "This browser tells you")
        raise_alarm("disk_low", 3, "1 GB is left.")
        wait_for_text(visitor, "alarms", "1 GB is left.")
        assert not page.get_by_text("The loss jumped.").is_visible()
        keep_screenshot(page, "alarm-dark")
        set_state(live_run, "stopped")
        page.wait_for_function("window.told.length === 2")
        assert page.evaluate("window.told") == ["1 GB is left.", "The run is now stopped."]
        assert visitor.problems == []


@pytest.mark.browser
def test_a_real_run_is_started_stopped_resumed_and_survives_a_kill(
    context: AppContext, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The run is long enough to be going whenever a button is pressed, on any machine."""
    text = tmp_path / "mill.txt"
    text.write_text("The river runs past the mill.\n" * 3_000, encoding="utf-8")
    recipe = tiny_recipe(tiny_model_folder, (Source(kind="files", paths=(str(text),)),))
    run = create(with_settings(recipe, "general", num_steps=20_000, max_epochs=1e6))
    with served(context) as url, visit(url, viewport=DESKTOP) as visitor:
        page = visitor.page

        def press(name: str, state: str) -> None:
            page.get_by_role("button", name=name, exact=True).click()
            page.wait_for_selector(f".monitor[data-state={state}]")

        visitor.open_tab("Training")
        try:
            page.locator("[data-part=actions] [data-action=start]").click()
            page.wait_for_selector(".monitor[data-state=running]")
            page.wait_for_function(f"{NUM_POINTS} > 0")
            press("Stop and save", "stopped")
            stopped_at = current_status(run).step
            press("Resume", "running")
            page.wait_for_function(f"{NUM_POINTS} > {stopped_at}")
            wait_for_text(visitor, "notices", "Resumed from")
            pid = current_status(run).pid
            assert pid
            os.kill(pid, signal.SIGKILL)
            wait_for_text(visitor, "trouble", "Died at step")
            wait_for_text(visitor, "trouble", tail_log(run).splitlines()[-1])
            keep_screenshot(page, "died-desktop")
            press("Resume", "running")
            press("Stop now", "stopped")
        finally:
            terminate(run)
        assert page.locator(".stage[data-state=done]").count() == 1
        assert visitor.problems == []
