"""The Training tab in a browser: charts that stay, Compare, refusals; and raw HTTP."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_page import call_server_function, served, visit
from live_run import LOSS, append_step, make_live_run, wait_for_points

from stentor.runs import Run, Status, list_runs, write_status
from stentor.ui.context import AppContext, make_context

REFUSAL = "Switched off here."
ACTIONS = (
    *("stop", "stop_now", "save", "sample", "resume", "start", "delete"),
    *("queue_up", "queue_down", "unqueue", "enqueue"),
)


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


@pytest.fixture
def live_run() -> Run:
    return make_live_run()


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


def monitor_of(url: str) -> tuple[int, dict[str, Any]]:
    """Return the number of the live view among the page's components, and the page."""
    page_config = json.loads(urllib.request.urlopen(f"{url}config").read())
    (monitor,) = [
        c["id"] for c in page_config["components"] if c["props"].get("elem_id") == "monitor"
    ]
    return monitor, page_config


def test_training_is_refused_over_raw_http(context: AppContext, live_run: Run) -> None:
    """Hiding a button protects nothing: the server itself says no."""
    closed = replace(context, training_refusal=REFUSAL)
    before = sorted(path.name for path in live_run.folder.iterdir())
    with served(closed) as url:
        monitor, page_config = monitor_of(url)
        for action in ACTIONS:
            question = {"run": live_run.id, "action": action, "value": 1}
            reply = call_server_function(url, monitor, "control_run", question)
            assert reply == {"error": REFUSAL}, action
        reply = call_server_function(url, monitor, "measure_run", live_run.id)
        assert reply == {"error": REFUSAL}
        question = {"run": live_run.id, "settings": {}}
        reply = call_server_function(url, monitor, "hand_over_run", question)
        assert reply == {"error": REFUSAL}
        shown = call_server_function(url, monitor, "watch_run", {"run": live_run.id, "offset": 0})
        assert REFUSAL in shown["parts"]["actions"]
        handlers = {item["api_name"] for item in page_config["dependencies"]}
        assert "keep" not in handlers, "no upload, no handler"
        assert "_ask_to_clone" in handlers
    assert [run.id for run in list_runs()] == [live_run.id]
    assert sorted(path.name for path in live_run.folder.iterdir()) == before


def test_whoever_may_not_train_is_shown_no_folder_of_this_machine(
    context: AppContext, live_run: Run
) -> None:
    """What is left under a refusal reads runs, and says so to any question, however odd."""
    live_run.log_file.write_text(f"Reading {live_run.folder}\n", encoding="utf-8")
    question = {"run": live_run.id, "offset": 0, "have": 0, "wants_runs": True}
    odd_ones: tuple[object, ...] = (
        *("x", [], 7, {"run": 7}, {"run": "../x"}),
        {"run": live_run.id, "x": 7},
    )
    with served(replace(context, training_refusal=REFUSAL)) as url:
        monitor, _ = monitor_of(url)
        for name in ("watch_run", "read_curves", "read_samples"):
            reply = call_server_function(url, monitor, name, question)
            assert reply["run"] == live_run.id, name
            assert str(live_run.folder.parent) not in json.dumps(reply), name
            for odd in odd_ones:
                assert call_server_function(url, monitor, name, odd), name
            assert "error" in call_server_function(url, monitor, name, {"run": "../x"}), name
        assert "html" in call_server_function(url, monitor, "list_opponents", live_run.id)
        assert "error" in call_server_function(url, monitor, "list_opponents", {"run": 7})


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
