"""The Training tab in a browser: a run watched, walked through, controlled; and raw HTTP."""

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_page import Visit, keep_screenshot, served, visit
from playwright.sync_api import Page
from tiny_recipe import PATIENCE_SECONDS, create, tiny_recipe

from stentor.jobs import terminate
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    list_runs,
    process_start,
    tail_log,
    write_status,
)
from stentor.ui.context import AppContext, make_context
from training.recipe import recipe_to_json, with_settings
from training.recipes import find_recipe
from training.settings import Source

TOKENS_PER_STEP = 2_048
REFUSAL = "Switched off here."
LOSS = "document.querySelector('.chart').data?.find(line => line.uid === 'loss')"
NUM_POINTS = f"({LOSS}?.x.length ?? 0)"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
EVIL = "<img src=x onerror=alert(1)>"
PROMPT = "The river"
ACTIONS = (
    *("stop", "stop_now", "save", "sample", "resume", "start", "delete"),
    *("queue_up", "queue_down", "unqueue", "enqueue"),
)
TEXTS = (
    " a a b b b b.",
    " runs on past a quiet old mill.",
    f" runs on past a loud old mill. {EVIL}",
)


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


@pytest.fixture
def live_run() -> Run:
    """Return a practice run that this test's own process seems to be doing."""
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    append_sample(run, "expand", 0, "base", TEXTS[0])
    append_event(run, "stage_started", stage="general", step=0, total_steps=20, tokens=0)
    append_event(run, "validation", stage="general", step=0, tokens=0, loss=5.2)
    keep_checkpoint(run, "expand-000000")
    for step in (1, 2, 3):
        append_step(run, step)
    set_state(run, "running")
    return run


def set_state(run: Run, state: str, **more: Any) -> None:  # noqa: ANN401
    """Write a status of this test's own process, so that a running run is alive."""
    pid = os.getpid()
    status = Status(
        state=state,
        pid=pid,
        process_start=process_start(pid),
        stage="general",
        step=3,
        total_steps=20,
        finished_stages=("expand",),
    )
    write_status(run, replace(status, **more))


def append_step(run: Run, step: int) -> None:
    append_event(
        run,
        "metrics",
        stage="general",
        step=step,
        tokens=step * TOKENS_PER_STEP,
        loss=5.0 - step / 10,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=900.0,
    )


def append_sample(run: Run, stage: str, step: int, point: str, text: str) -> None:
    append_event(
        run,
        "sample",
        stage=stage,
        step=step,
        tokens=step * TOKENS_PER_STEP,
        point=point,
        number=0,
        prompt=PROMPT,
        text=text,
        seed=7,
        settings={"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 40},
        precision="fp32",
    )


def keep_checkpoint(run: Run, name: str) -> None:
    (run.checkpoints_folder / name).mkdir()
    (run.checkpoints_folder / name / "model.safetensors").write_bytes(b"0" * 3_000)


def wait_for_points(visitor: Visit, count: int) -> None:
    visitor.page.wait_for_function(f"{NUM_POINTS} === {count}")


def wait_for_text(visitor: Visit, part: str, text: str) -> None:
    visitor.page.locator(f"[data-part={part}]", has_text=text).first.wait_for()


@pytest.mark.browser
def test_the_chart_grows_in_its_own_node_and_keeps_zoom_and_legend(
    context: AppContext, live_run: Run
) -> None:
    """`gr.Plot` mounts a new chart on every update, which loses both; ours must not."""
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        wait_for_points(visitor, 3)
        page.evaluate("window.firstNode = document.querySelector('.chart')")
        place = page.evaluate(f"document.querySelector('.chart').data.indexOf({LOSS})")
        page.evaluate(
            "place => Plotly.restyle(document.querySelector('.chart'), "
            "{visible: 'legendonly'}, [place])",
            place,
        )
        box = page.locator(".chart .nsewdrag").first.bounding_box()
        assert box
        page.mouse.move(box["x"] + 40, box["y"] + 30)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 32, steps=4)
        page.mouse.up()
        zoomed = "document.querySelector('.chart')._fullLayout.xaxis.range"
        page.wait_for_function(f"{zoomed}[0] > 0")
        before = page.evaluate(zoomed)
        for step in (4, 5):
            append_step(live_run, step)
            wait_for_points(visitor, step)
        assert page.evaluate(zoomed) == before
        assert page.evaluate("document.querySelector('.chart') === window.firstNode")
        hidden = page.evaluate(f"document.querySelector('.chart')._fullData[{place}].visible")
        assert hidden == "legendonly"
        assert "4.500" in page.locator("[data-part=numbers]").inner_text()
        assert visitor.problems == []


@pytest.mark.browser
def test_a_reload_and_a_new_app_show_the_same_run(context: AppContext, live_run: Run) -> None:
    """Everything comes from the run folder: neither the page nor the app remembers anything."""
    with served(context) as url, visit(url) as visitor:
        visitor.open_tab("Training")
        wait_for_points(visitor, 3)
        append_step(live_run, 4)
        visitor.page.reload()
        visitor.page.wait_for_selector(".pair-banner b")
        visitor.open_tab("Training")
        wait_for_points(visitor, 4)
    with served(context) as url, visit(url) as visitor:
        visitor.open_tab("Training")
        wait_for_points(visitor, 4)
        write_status(live_run, Status(state="finished", finished_stages=("expand",)))
        visitor.page.wait_for_function(
            "document.querySelector('.monitor select').selectedOptions[0].text.includes('finished')"
        )
        assert visitor.page.get_by_role("button", name="Stop and save").count() == 0
        assert visitor.problems == []


@pytest.mark.browser
def test_a_checkpoint_opens_in_compare_against_the_chosen_model(
    context: AppContext, live_run: Run
) -> None:
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        against = page.locator("[data-part=opponents]")
        page.wait_for_function("document.querySelector('[data-part=opponents]').value")
        assert against.input_value() == "demo-base", "the model that the run grew from"
        against.select_option("demo-big")
        page.get_by_role("button", name="Open in Compare").click()
        page.wait_for_function(
            "document.querySelector('#tab-compare-button').ariaSelected === 'true'"
        )
        banner = "document.querySelector('.pair-banner').textContent"
        page.wait_for_function(f"{banner}.includes('expand-000000')")
        page.wait_for_function(f"{banner}.includes('Demo big')")


@pytest.mark.browser
def test_the_slider_walks_a_prompt_through_the_run_and_marks_what_changed(
    context: AppContext, live_run: Run
) -> None:
    append_sample(live_run, "general", 1, "checkpoint", TEXTS[1])
    with served(context) as url, visit(url, viewport=DESKTOP) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        wait_for_text(visitor, "sample-label", "step 1")
        append_event(
            live_run, "validation", stage="general", step=3, tokens=3 * TOKENS_PER_STEP, loss=4.5
        )
        append_sample(live_run, "general", 3, "checkpoint", TEXTS[2])
        wait_for_text(visitor, "sample-label", "step 3, loss 4.50 (3 of 3)")
        now, before = (
            page.locator("[data-part=sample-now]"),
            page.locator("[data-part=sample-before]"),
        )
        assert now.inner_text() == PROMPT + TEXTS[2]
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
        assert now.inner_text() == PROMPT + TEXTS[0]
        assert not before.is_visible()
        append_step(live_run, 4)
        append_sample(live_run, "general", 4, "checkpoint", TEXTS[1])
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


def wait_until(page: Page, is_so: Callable[[], bool]) -> None:
    """Let the page work until something is so on disk."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)


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
def test_a_refusal_says_why(context: AppContext, tmp_path: Path) -> None:
    """Outside the queue Gradio turns the message into HTTP 500 and the word Error."""
    empty = tmp_path / "empty.txt"
    empty.touch()
    with served(context) as url, visit(url) as visitor:
        visitor.open_tab("Training")
        visitor.page.get_by_role("button", name="Your own text").click()
        visitor.page.locator("#plan-texts input[type=file]").set_input_files(empty)
        toast = visitor.page.get_by_test_id("toast-text")
        assert "empty.txt has 0 bytes" in toast.inner_text()
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


def call_server_function(url: str, component: int, name: str, value: object) -> dict[str, Any]:
    """Call a function of the live view as anyone with the address could, without the page."""
    body = {"data": value, "component_id": component, "fn_name": name, "session_hash": "x"}
    request = urllib.request.Request(
        f"{url}gradio_api/component_server",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        answer: dict[str, Any] = json.loads(reply.read())
        return answer


def test_training_is_refused_over_raw_http(context: AppContext, live_run: Run) -> None:
    """Hiding a button protects nothing: the server itself says no."""
    closed = replace(context, training_refusal=REFUSAL)
    before = sorted(path.name for path in live_run.folder.iterdir())
    with served(closed) as url:
        page_config = json.loads(urllib.request.urlopen(f"{url}config").read())
        (monitor,) = [
            c["id"] for c in page_config["components"] if c["props"].get("elem_id") == "monitor"
        ]
        for action in ACTIONS:
            question = {"run": live_run.id, "action": action, "value": 1}
            reply = call_server_function(url, monitor, "control_run", question)
            assert reply == {"error": REFUSAL}, action
        reply = call_server_function(url, monitor, "measure_run", live_run.id)
        assert reply == {"error": REFUSAL}
        shown = call_server_function(url, monitor, "watch_run", {"run": live_run.id, "offset": 0})
        assert REFUSAL in shown["parts"]["actions"]
        handlers = {item["api_name"] for item in page_config["dependencies"]}
        assert "keep" not in handlers, "no upload, no handler"
        assert "_ask_to_clone" in handlers
    assert [run.id for run in list_runs()] == [live_run.id]
    assert sorted(path.name for path in live_run.folder.iterdir()) == before


def upload(url: str, path: str) -> str:
    """Send a small file as `curl -F files=@x.txt` does."""
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="files"; filename="x.txt"\r\n\r\n'
        b"Some text.\r\n--edge--\r\n"
    )
    request = urllib.request.Request(
        f"{url}{path}",
        data=body,
        headers={"Content-Type": "multipart/form-data; boundary=edge"},
    )
    with urllib.request.urlopen(request) as reply:
        text: str = reply.read().decode()
        return text


def test_a_stranger_cannot_fill_the_disk(context: AppContext) -> None:
    """Gradio's own upload address took 200 MB from anyone, and kept it for a day."""
    with served(context) as url:
        assert "x.txt" in upload(url, "gradio_api/upload")
    with served(replace(context, training_refusal=REFUSAL)) as url:
        for path in ("gradio_api/upload", "gradio_api/upload/", "gradio_api/upload?upload_id=1"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                upload(url, path)
            assert (caught.value.code, caught.value.read().decode()) == (403, REFUSAL)
            assert "content-security-policy" in caught.value.headers


@pytest.mark.browser
def test_strangers_get_the_reason_and_the_command_instead_of_start_and_upload(
    context: AppContext, live_run: Run
) -> None:
    live_run.log_file.write_text(f"Reading {live_run.folder}\n", encoding="utf-8")
    with served(replace(context, training_refusal=REFUSAL)) as url, visit(url) as visitor:
        page = visitor.page
        visitor.open_tab("Training")
        wait_for_points(visitor, 3)
        assert str(live_run.folder) not in page.content()
        for hidden in (".log-box", ".run-command"):
            assert not page.locator(hidden).is_visible()
        page.get_by_role("button", name="New run").click()
        page.locator("#start-row").get_by_text(REFUSAL).wait_for()
        page.wait_for_function(
            "document.querySelector('#command code').textContent.includes('training run practice')"
        )
        assert page.get_by_role("button", name="Start", exact=True).count() == 0
        assert page.locator("#plan-texts").count() == 0
        assert page.locator("input[type=file]").count() == 0
        assert visitor.problems == []
