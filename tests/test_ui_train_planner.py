"""The planner in a browser: plans edited, kept, loaded, cloned, checked, started; and raw HTTP."""

import json
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser_page import Visit, call_server_function, keep_screenshot, served, visit
from tiny_recipe import PATIENCE_SECONDS, tiny_recipe

from stentor.jobs import terminate
from stentor.rehearsals import rehearsals_folder
from stentor.runs import (
    Run,
    Status,
    create_run,
    list_runs,
    process_start,
    read_recipe,
    write_status,
)
from stentor.ui.context import AppContext, make_context
from stentor.ui.train_command import recipes_folder
from stentor.ui.train_draft import draft_of
from training.recipe import recipe_to_json
from training.recipes import RECIPES, find_recipe

REFUSAL = "Switched off here."
PRACTICE = json.loads(json.dumps(draft_of(find_recipe("practice"))))
# What a job of a check is called, see stentor/rehearsals.py.
JOB = "20260101-120000-check-0123abcd"
SERVER_FUNCTIONS = {
    "save_command": {"draft": {**PRACTICE, "title": "Mine"}},
    "start_job": {"kind": "check", "draft": PRACTICE},
    "read_job": {"job": JOB},
    "stop_job": {"job": JOB},
    "start_plan": {"draft": PRACTICE, "job": JOB, "anyway": True},
}


@pytest.fixture
def context() -> Iterator[AppContext]:
    context = make_context("demo", is_private=True)
    yield context
    context.store.close()


def planner_of(url: str) -> int:
    config = json.loads(urllib.request.urlopen(f"{url}config").read())
    (found,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == "planner"]
    return int(found)


def test_where_training_is_off_the_planner_shows_and_does_nothing(context: AppContext) -> None:
    private = replace(find_recipe("practice"), start="/home/me/models/base")
    run = create_run(recipe_to_json(private), "practice")
    with served(replace(context, training_refusal=REFUSAL)) as url:
        planner = planner_of(url)
        for name, question in SERVER_FUNCTIONS.items():
            assert call_server_function(url, planner, name, question) == {"error": REFUSAL}
        shown = call_server_function(url, planner, "read_planner", {})
        assert shown["refusal"] == REFUSAL
        assert shown["texts"] == []
        checked = call_server_function(url, planner, "check_draft", {"draft": PRACTICE})
        assert checked["command"]["text"] == "python -m training run practice"
        cloned = call_server_function(url, planner, "clone_recipe", {"run": run.id})
        assert cloned["draft"]["start"] == "base", "not where it lies"
    assert [one.id for one in list_runs()] == [run.id]
    assert not recipes_folder().exists()
    assert not rehearsals_folder().exists()


def test_nonsense_is_answered_with_a_message(context: AppContext) -> None:
    with served(context) as url:
        planner = planner_of(url)
        drafts: tuple[object, ...] = (None, 5, [], {}, {"draft": 5}, {"draft": {"stages": [None]}})
        for question in drafts:
            answer = call_server_function(url, planner, "check_draft", question)
            assert "error" in answer or answer["problems"]
        for name in ("clone_recipe", "load_recipe", "start_job", "read_job", "start_plan"):
            assert "error" in call_server_function(
                url, planner, name, {"run": "../../etc", "job": "../x"}
            )
    assert list_runs() == []


# In a browser ------------------------------------------------------------------------------


def keep_whole(visitor: Visit, name: str) -> None:
    """Keep a picture of the planner to its end, as on a screen that holds all of it."""
    size = visitor.page.viewport_size
    assert size
    height = visitor.page.evaluate("document.documentElement.scrollHeight")
    visitor.page.set_viewport_size({"width": size["width"], "height": height})
    keep_screenshot(visitor.page, name)
    visitor.page.set_viewport_size(size)


def open_planner(visitor: Visit) -> None:
    visitor.open_tab("Training")
    visitor.page.wait_for_selector(".planner[data-state=ready]", state="attached")
    if not visitor.page.locator(".planner").is_visible():
        visitor.page.get_by_role("button", name="New run").click()
    visitor.page.locator(".planner").wait_for()


def titles(visitor: Visit) -> list[str]:
    return visitor.page.locator(".plan-card[data-number] .plan-title b").all_inner_texts()


def wait_for_command(visitor: Visit, text: str) -> None:
    visitor.page.wait_for_function(
        "text => document.querySelector('#command code').textContent.includes(text)", arg=text
    )


def field(visitor: Visit, label: str) -> Any:  # noqa: ANN401 - a Playwright locator
    return visitor.page.locator(".plan-editor").get_by_label(label, exact=True)


@pytest.mark.browser
def test_stages_are_skipped_moved_dropped_and_brought_back(context: AppContext) -> None:
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        open_planner(visitor)
        first = titles(visitor)
        assert len(first) == 4
        page.locator("[data-key=card-1]").click()
        page.get_by_role("button", name="Skip", exact=True).click()
        wait_for_command(visitor, "--skip general")
        assert page.locator(".plan-card[data-skip]").count() == 1
        page.get_by_role("button", name="Later →").click()
        assert titles(visitor) == [first[0], first[2], first[1], first[3]]
        page.locator("[data-key=card-2]").focus()
        page.keyboard.press("Alt+ArrowLeft")
        assert titles(visitor) == first
        assert page.evaluate("document.activeElement.dataset.key") == "card-1"
        page.keyboard.press("Delete")
        assert titles(visitor) == [first[0], *first[2:]]
        page.locator("[data-part=news]").get_by_role("button", name="Undo").click()
        assert titles(visitor) == first
        page.locator("[data-key=card-0]").drag_to(page.locator("[data-key=card-3]"))
        assert titles(visitor) == [*first[1:], first[0]]
        assert visitor.problems == []


@pytest.mark.browser
def test_what_was_typed_is_never_lost(context: AppContext) -> None:
    """Not by a wrong value, which a number field would throw away, and not by a reload."""
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        open_planner(visitor)
        first = titles(visitor)
        page.locator("[data-key=card-1]").click()
        field(visitor, "Num steps").fill("33")
        wait_for_command(visitor, "--set general.num_steps=33")
        page.get_by_role("button", name="Add stage").click()
        page.get_by_role("button", name="Train on text", exact=True).click()
        wait_for_command(visitor, "recipes/practice-")
        field(visitor, "Batch size").fill("many")
        page.locator(".plan-problems li").wait_for()
        wrong = page.locator(".field[data-wrong]").inner_text()
        assert "Batch size must be a whole number; got 'many'" in wrong
        keep_whole(visitor, "planner-problem")
        page.reload()
        page.wait_for_selector(".pair-banner b")
        open_planner(visitor)
        assert titles(visitor) == [*first, "Train on text"]
        assert field(visitor, "Batch size").input_value() == "many"
        page.get_by_role("button", name="Start over").click()
        assert titles(visitor) == first
        wait_for_command(visitor, "training run practice")
        page.get_by_role("button", name="Undo", exact=True).first.click()
        assert titles(visitor) == [*first, "Train on text"]
        assert visitor.problems == []


@pytest.mark.browser
def test_a_plan_is_saved_loaded_and_cloned(context: AppContext, tmp_path: Path) -> None:
    other = replace(find_recipe("card"), title="A past card", seed=2**60 + 1)
    run = create_run(recipe_to_json(other), "card")
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        open_planner(visitor)
        page.locator("[data-key=card-1]").click()
        field(visitor, "Learning rate").fill("3e-4")
        wait_for_command(visitor, "general.learning_rate=0.0003")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save JSON").click()
        saved = tmp_path / "plan.json"
        download.value.save_as(saved)

        page.locator("[data-part=runs]").select_option(run.id)
        page.locator("[data-part=news]").get_by_text(f"Cloned {run.id}").wait_for()
        page.locator("[data-key=card--1]").click()
        assert field(visitor, "Seed").input_value() == str(2**60 + 1), "a browser's is 2**60"

        broken = tmp_path / "broken.json"
        broken.write_text(json.dumps({**PRACTICE, "sed": 1, "stages": [{"kind": "grow"}]}))
        for file, words in ((broken, "Did you mean 'seed'?"), (saved, "Loaded plan.json")):
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Load JSON").click()
            chooser.value.set_files(file)
            page.locator("[data-part=news]").get_by_text(words).wait_for()
        wait_for_command(visitor, "general.learning_rate=0.0003")
        assert visitor.problems == []


@pytest.mark.browser
def test_a_plan_is_checked_then_started(
    context: AppContext,
    tiny_model_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The real check, in a process of its own, and the real run."""
    tiny = replace(tiny_recipe(tiny_model_folder), name="practice")
    monkeypatch.setitem(RECIPES, "practice", lambda: tiny)
    with served(context) as url, visit(url) as visitor:
        page = visitor.page
        page.set_default_timeout(PATIENCE_SECONDS * 1_000)
        open_planner(visitor)
        page.get_by_role("button", name="Check", exact=True).click()
        page.locator(".plan-report h4").wait_for()
        assert "Checked" in page.locator(".plan-report h4").inner_text()
        assert page.locator(".plan-report [data-level=error]").count() == 0
        page.locator(".report-windows summary").first.click()
        keep_whole(visitor, "planner-report")
        page.get_by_role("button", name="Start", exact=True).click()
        anyway = page.get_by_role("button", name="Start anyway")
        page.wait_for_selector(".monitor[data-view=run], [data-action=start-anyway]:visible")
        if anyway.is_visible():
            anyway.click()
        page.wait_for_selector(".monitor[data-view=run]")
        (run,) = list_runs()
        try:
            assert [stage["name"] for stage in read_recipe(run)["stages"]] == [
                stage.name for stage in tiny.stages
            ]
        finally:
            terminate(run)
        assert visitor.problems == []


@pytest.fixture
def going_run() -> Run:
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    pid = os.getpid()
    write_status(run, Status(state="running", pid=pid, process_start=process_start(pid)))
    return run


@pytest.mark.browser
@pytest.mark.parametrize(
    ("name", "query", "size"),
    [
        ("desktop", "", (1280, 900)),
        ("dark", "?__theme=dark", (1280, 900)),
        ("phone", "", (390, 844)),
    ],
)
def test_the_planner_fits(
    context: AppContext, going_run: Run, name: str, query: str, size: tuple[int, int]
) -> None:
    """Nothing is wider than the page; beside a run that goes a plan can only be put in line."""
    options = {"viewport": {"width": size[0], "height": size[1]}}
    with served(context) as url, visit(url, query, **options) as visitor:
        open_planner(visitor)
        page = visitor.page
        page.get_by_role("button", name="Add to the queue").wait_for()
        page.locator("[data-key=card-2]").click()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= size[0]
        dock = page.locator(".plan-dock").bounding_box()
        assert dock
        assert dock["y"] + dock["height"] <= size[1], "Start is in sight"
        keep_whole(visitor, f"planner-{name}")
        assert visitor.problems == []
