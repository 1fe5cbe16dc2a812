"""The Training tab in a browser: a live run watched, stopped, resumed, opened; and raw HTTP."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_page import Visit, served, visit
from tiny_recipe import PATIENCE_SECONDS, tiny_recipe

from stentor.jobs import terminate
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    list_runs,
    process_start,
    write_status,
)
from stentor.ui.context import AppContext, make_context
from training.recipe import recipe_to_json, with_settings
from training.recipes import RECIPES, find_recipe
from training.settings import Source

TOKENS_PER_STEP = 2_048
REFUSAL = "Switched off here."
NUM_POINTS = "(document.querySelector('.chart').data?.[0].x.length ?? 0)"


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


@pytest.fixture
def live_run() -> Run:
    """Return a practice run that this test's own process seems to be doing."""
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    pid = os.getpid()
    write_status(
        run,
        Status(
            state="running",
            pid=pid,
            process_start=process_start(pid),
            stage="general",
            total_steps=20,
            finished_stages=("expand",),
        ),
    )
    append_event(run, "stage_started", stage="general", step=0, total_steps=20, tokens=0)
    append_event(run, "validation", stage="general", step=0, tokens=0, loss=5.2)
    (run.checkpoints_folder / "expand-000000").mkdir()
    for step in (1, 2, 3):
        append_step(run, step)
    return run


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


def wait_for_points(visitor: Visit, count: int) -> None:
    visitor.page.wait_for_function(f"{NUM_POINTS} === {count}")


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
        page.locator(".chart .legendtoggle").nth(3).click()
        page.wait_for_function(
            "document.querySelector('.chart')._fullData[3].visible === 'legendonly'"
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
        hidden = page.evaluate("document.querySelector('.chart')._fullData[3].visible")
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
def test_a_checkpoint_opens_in_compare_with_one_click(context: AppContext, live_run: Run) -> None:
    with served(context) as url, visit(url) as visitor:
        visitor.open_tab("Training")
        visitor.page.get_by_role("button", name="Open in Compare").click()
        visitor.page.wait_for_function(
            "document.querySelector('#tab-compare-button').ariaSelected === 'true'"
        )
        visitor.page.wait_for_function(
            "document.querySelector('.pair-banner').textContent.includes('expand-000000')"
        )


@pytest.mark.browser
def test_a_refusal_says_why(context: AppContext, live_run: Run) -> None:
    """Outside the queue Gradio turns the message into HTTP 500 and the word Error."""
    with served(context) as url, visit(url) as visitor:
        visitor.open_tab("Training")
        wait_for_points(visitor, 3)
        visitor.page.get_by_role("button", name="New run").click()
        visitor.page.get_by_role("button", name="Start", exact=True).click()
        toast = visitor.page.get_by_test_id("toast-text")
        assert f"Run {live_run.id} is still going" in toast.inner_text()
        assert visitor.problems == []


@pytest.mark.browser
def test_a_real_run_is_started_stopped_and_resumed_from_the_page(
    context: AppContext,
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run is long enough to be going whenever a button is pressed, on any machine."""
    text = tmp_path / "mill.txt"
    text.write_text("The river runs past the mill.\n" * 3_000, encoding="utf-8")
    recipe = tiny_recipe(tiny_model_folder, (Source(kind="files", paths=(str(text),)),))
    long = with_settings(
        replace(recipe, name="practice"), "general", num_steps=20_000, max_epochs=1e6
    )
    monkeypatch.setitem(RECIPES, "practice", lambda: long)
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        page.set_default_timeout(PATIENCE_SECONDS * 1_000)
        visitor.open_tab("Training")
        page.get_by_role("button", name="Start", exact=True).click()
        page.wait_for_selector(".monitor[data-state=running]")
        (run,) = list_runs()
        try:
            page.wait_for_function(f"{NUM_POINTS} > 0")
            page.get_by_role("button", name="Stop and save").click()
            page.wait_for_selector(".monitor[data-state=stopped]")
            stopped_at = current_status(run).step
            page.get_by_role("button", name="Resume").click()
            page.wait_for_selector(".monitor[data-state=running]")
            page.wait_for_function(f"{NUM_POINTS} > {stopped_at}")
        finally:
            terminate(run)
        assert page.locator(".stage[data-state=done]").count() == 1
        assert "Resumed from" in page.locator("[data-part=notices]").inner_text()
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
        for name in ("stop_run", "resume_run"):
            reply = call_server_function(url, monitor, name, live_run.id)
            assert reply == {"error": REFUSAL}
        shown = call_server_function(url, monitor, "watch_run", {"run": live_run.id, "offset": 0})
        assert REFUSAL in shown["parts"]["actions"]
        handlers = {item["api_name"] for item in page_config["dependencies"]}
        assert not {"begin", "keep"} & handlers, "no button, no handler"
        assert "show" in handlers
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
            "document.querySelector('#command textarea').value.includes('training run practice')"
        )
        assert page.get_by_role("button", name="Start", exact=True).count() == 0
        assert page.get_by_text("Train on your own text").count() == 0
        assert page.locator("input[type=file]").count() == 0
        assert visitor.problems == []
