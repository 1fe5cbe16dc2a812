"""The Prompts tab, built as the app builds it; its wired handlers run the real engine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from stentor.errors import RunError
from stentor.evaluation_store import (
    EvaluationSettings,
    ModelUsed,
    Result,
    append_result,
    create_evaluation,
    list_evaluations,
    num_results,
    open_evaluation,
)
from stentor.models import Pair
from stentor.prompts import find_prompt
from stentor.ui import prompts
from stentor.ui.context import AppContext, CompareRequest, Page, make_context

WAIT_SECONDS = 60.0
TOKEN = "0123456789abcdef" * 2
FIRST = "mathematics-01"


@pytest.fixture
def context(tiny_model_folder: Path) -> Iterator[AppContext]:
    folder = str(tiny_model_folder)
    made = make_context("demo", is_private=True)
    yield replace(made, pair=Pair("tiny", "Tiny", folder, folder))
    made.evaluations.close()
    made.store.close()


@pytest.fixture
def blocks(context: AppContext) -> gr.Blocks:
    page = gr.Blocks()
    with page:
        pair = gr.State((context.pair.left, context.pair.right))
        with gr.Tabs() as tabs, gr.Tab(prompts.TITLE):
            prompts.build(context, Page(tabs, gr.State(None), pair))
    return page


def call(blocks: gr.Blocks, name: str, *values: object) -> Any:  # noqa: ANN401
    """Call the wired handler of this name and check that it fills every output."""
    (wired,) = (block for block in blocks.fns.values() if block.name == name)
    assert wired.fn is not None
    result = wired.fn(*values)
    filled = len(result) if isinstance(result, list | tuple) else 1
    assert filled == len(wired.outputs)
    return result


def start(blocks: gr.Blocks, context: AppContext, category: str, owner: str = TOKEN) -> str:
    pair = (context.pair.left, context.pair.right)
    call(blocks, "_run", category, pair, 7, owner, FIRST)
    return context.evaluations.running(owner) or list_evaluations()[0].id


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_first_visitor_is_told_what_to_do(blocks: gr.Blocks) -> None:
    owner, category, *_, progress, timer = call(blocks, "_arrive", SimpleNamespace(token=TOKEN))
    assert (owner, category, progress) == (TOKEN, "science", "")
    assert not timer.active
    detail = call(blocks, "detail_of", "science-01", None)
    assert "No run of this category yet" in detail and "Press Run category" in detail


def test_a_forged_token_is_replaced(blocks: gr.Blocks) -> None:
    owner, *_ = call(blocks, "_arrive", SimpleNamespace(token="../" * 9))
    assert prompts.TOKEN.fullmatch(owner)


def test_the_plan_names_what_will_run(blocks: gr.Blocks, context: AppContext) -> None:
    pair = (context.pair.left, "demo-big")
    text, label = call(blocks, "_plan", "python", pair)
    assert "Python: 10 prompts through" in text and "Demo big" in text
    assert label == "Run category"
    assert call(blocks, "_plan", "all", pair)[1] == "Run all categories"


def test_a_category_runs_and_both_outputs_appear(blocks: gr.Blocks, context: AppContext) -> None:
    run = start(blocks, context, "mathematics")
    assert context.evaluations.wait(run, WAIT_SECONDS)
    ticked = call(blocks, "_tick", run, run, FIRST, "")
    menu, detail, scores, json_file, csv_file, own, run_button, stop, progress, timer, _ = ticked
    assert menu.value == run and own == run
    assert detail.count('class="pane-text"') == 2 and "first 40 characters" in detail
    assert "10 of 10 scored" in scores and "seed 7" in scores
    assert json_file.interactive and csv_file.interactive
    assert run_button.interactive and not stop.interactive and not timer.active
    assert "Mathematics: finished" in progress and "20 of 20" in progress


def test_a_reload_in_mid_run_finds_the_run_again(blocks: gr.Blocks, context: AppContext) -> None:
    run = start(blocks, context, "storytelling")
    arrived = call(blocks, "_arrive", SimpleNamespace(token=TOKEN))
    _, category, *_, menu, _, _, json_file, _, own, run_button, stop, progress, timer = arrived
    assert (category, own, menu.value) == ("storytelling", run, run)
    assert timer.active and stop.interactive and not run_button.interactive
    assert "<progress" in progress and not json_file.interactive
    other = call(blocks, "_arrive", SimpleNamespace(token="f" * 32))
    assert other[-5] == "" and not other[-1].active  # somebody else's browser


def test_a_tick_leaves_alone_what_has_not_changed(blocks: gr.Blocks) -> None:
    """A pane that is replaced every second loses its scroll position and any selection."""
    going = create_evaluation(
        EvaluationSettings("science"),
        (ModelUsed("a", "A", "r1"), ModelUsed("b", "B", "r2")),
        suite_hash="sha256:1",
        sampling={"science": {"max_new_tokens": 80}},
        total=20,
        prompts_at_a_time=1,
        versions={},
        machine={},
    )
    run, shown, skip = going.id, "science-01", gr.skip()
    append_result(going, Result(shown, "science", "Light is", 0, "a", "fluency", text=" a wave"))
    *first, sent = call(blocks, "_tick", run, run, shown, "")
    assert " a wave" in first[1] and "1 of 20" in first[8] and first[9].active
    again = call(blocks, "_tick", run, run, shown, sent)
    assert again[:5] == [skip] * 5 and again[-1] == sent
    append_result(going, Result(shown, "science", "Light is", 1, "b", "fluency", text=" a ray"))
    assert " a ray" in call(blocks, "_tick", run, run, shown, sent)[1]
    elsewhere = call(blocks, "_tick", run, "another", "python-01", sent)
    assert elsewhere[:5] == [skip] * 5 and "2 of 20" in elsewhere[8]


def test_stop_keeps_what_is_finished_and_offers_it(blocks: gr.Blocks, context: AppContext) -> None:
    run = start(blocks, context, "all")
    wait_for(lambda: num_results(open_evaluation(run)) >= 1)
    assert "Stopping" in call(blocks, "_stop", run)
    assert context.evaluations.wait(run, WAIT_SECONDS)
    *_, json_file, csv_file, _, run_button, _, progress, timer, _ = call(
        blocks, "_tick", run, run, "science-01", ""
    )
    assert "stopped" in progress and not timer.active and run_button.interactive
    assert Path(json_file.value["path"]).is_file() and Path(csv_file.value["path"]).is_file()


def test_stop_without_a_run_and_a_second_run_are_refused(
    blocks: gr.Blocks, context: AppContext
) -> None:
    with pytest.raises(gr.Error, match="No run of this browser"):
        call(blocks, "_stop", "")
    start(blocks, context, "all")
    with pytest.raises(gr.Error, match="still running"):
        start(blocks, context, "science")
    with pytest.raises(gr.Error, match="Seed must be at most"):
        call(blocks, "_run", "science", ("demo-base", "demo-big"), 2**40, "other", None)


def test_a_run_whose_folder_is_gone_ends_the_ticking(blocks: gr.Blocks) -> None:
    ticked = call(blocks, "_tick", "20260101-000000-gone-0000", None, None, "")
    assert not ticked[-2].active
    with pytest.raises(RunError):
        open_evaluation("20260101-000000-gone-0000")


def test_choosing_a_category_shows_its_newest_run(blocks: gr.Blocks, context: AppContext) -> None:
    run = start(blocks, context, "mathematics")
    assert context.evaluations.wait(run, WAIT_SECONDS)
    chosen = call(blocks, "_choose_category", "mathematics", "", "all", "science-01")
    about, listed, count, menu, detail, *_ = chosen
    assert "poor" in about and listed.value == FIRST and "10 prompts" in count
    assert menu.value == run and FIRST in detail
    *_, menu, detail, scores, _, _ = call(blocks, "_choose_category", "python", "", "all", FIRST)
    assert menu.value is None and "No run of this category yet" in detail
    assert "No run chosen" in scores
    assert call(blocks, "_choose_run", run, FIRST)[0].value == run
    assert call(blocks, "_list_runs", run).choices[0][1] == run


def test_send_to_compare_takes_prompt_settings_and_seed(
    blocks: gr.Blocks, context: AppContext
) -> None:
    pair = ("demo-base", "demo-big")
    _, request, chosen = call(blocks, "handle", pair, "python-03", None)
    assert isinstance(request, CompareRequest)
    assert request.prompt == find_prompt("python-03").text
    assert dict(request.settings) == {"temperature": 0.2, "max_new_tokens": 64}
    assert chosen == pair
    run = start(blocks, context, "mathematics")
    _, request, _ = call(blocks, "handle", pair, FIRST, run)
    assert dict(request.settings)["seed"] == 7
    assert dict(request.settings)["max_new_tokens"] == 16
    with pytest.raises(gr.Error, match="Choose a prompt"):
        call(blocks, "handle", pair, None, None)


def test_light_handlers_do_not_wait_behind_generations(blocks: gr.Blocks) -> None:
    light = {"_choose_category", "filtered", "detail_of", "_choose_run", "_stop", "_tick"}
    wired = {block.name: block for block in blocks.fns.values()}
    assert light <= set(wired)
    assert all(wired[name].concurrency_limit is None for name in light)
    assert all(block.api_visibility == "private" for block in blocks.fns.values())
