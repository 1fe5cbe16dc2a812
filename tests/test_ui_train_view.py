"""The Training tab's HTML."""

import pytest

from stentor.runs import Run, Status, create_run
from stentor.ui import train_view as view
from stentor.ui.chart import Digest
from training.recipe import with_settings
from training.recipes import RECIPES, find_recipe

EVIL = "<script>alert(1)</script>"


def test_every_recipe_has_a_card_per_stage_with_its_numbers() -> None:
    for name in RECIPES:
        recipe = find_recipe(name)
        html = view.stage_cards(recipe)
        assert html.count('<li class="stage"') == len(recipe.stages)
        for stage in recipe.stages:
            assert stage.title in html
    card = view.stage_cards(find_recipe("card"))
    assert "9,500" in card
    assert "623 M" in card
    assert "0.00015" in card
    assert "512 wide, 30 layers, 8 heads" in card


def test_cards_follow_a_run() -> None:
    recipe = find_recipe("practice")
    status = Status(state="running", stage="general", finished_stages=("expand",))
    digest = Digest()
    digest.feed(
        [
            {"kind": "stage_started", "stage": "expand", "tokens": 0, "t": 10.0},
            {
                "kind": "growth",
                "stage": "expand",
                "loss_before": 5.0,
                "loss_after": 5.0,
                "max_logit": 14.0,
                "max_logit_difference": 2e-6,
                "is_exact": True,
            },
            {"kind": "stage_started", "stage": "general", "tokens": 0, "total_steps": 20},
            {"kind": "validation", "stage": "general", "step": 0, "tokens": 0, "loss": 5.0},
            {"kind": "metrics", "stage": "general", "step": 5, "tokens": 10_240, "loss": 3.0},
            {"kind": "validation", "stage": "general", "step": 5, "tokens": 10_240, "loss": 2.5},
        ]
    )
    html = view.stage_cards(recipe, status, digest)
    assert html.count('data-state="done"') == 1
    assert html.count('data-state="running"') == 1
    assert html.count('data-state="waiting"') == 2
    assert "same function" in html
    assert "5.00 → 2.50" in html
    assert "5 of 20" in html


@pytest.mark.parametrize("state", list(view.STATE_WORDS))
def test_every_state_has_words(state: str) -> None:
    run = create_run({}, "practice")
    html = view.heading(run, find_recipe("practice"), Status(state=state), Digest())
    assert view.STATE_WORDS[state] in html
    assert view.STATE_WORDS[state] in view.run_label(run, state)


def test_time_left_counts_tokens_that_are_left_so_a_resume_does_not_fool_it() -> None:
    recipe = find_recipe("practice")
    total = sum(stage.total_steps() for stage in recipe.stages) * 2_048
    digest = Digest()
    tokens = total - 9_000
    digest.feed(
        [
            {"kind": "stage_started", "stage": "textbook", "tokens": tokens},
            {
                "kind": "metrics",
                "stage": "textbook",
                "step": 1,
                "tokens": tokens,
                "tokens_per_second": 900.0,
            },
        ]
    )
    html = view.heading(create_run({}, "x"), recipe, Status(state="running"), digest)
    assert "about 10 s left" in html


def test_untrusted_text_is_escaped_everywhere() -> None:
    digest = Digest()
    digest.feed(
        [
            {"kind": "machine", "name": EVIL, "num_cores": EVIL, "torch_version": EVIL},
            {"kind": "sample", "stage": EVIL, "step": EVIL, "prompt": EVIL, "text": EVIL},
            {"kind": "warning", "message": EVIL},
            {"kind": "metrics", "stage": EVIL, "step": 1, "tokens": 1, "loss": 1.0},
        ]
    )
    run = create_run({}, "x")
    status = Status(state="failed", error=EVIL)
    pieces = [
        view.heading(run, find_recipe("practice"), status, digest),
        view.samples(digest),
        view.notices(digest),
        view.numbers_table(digest),
        view.machine_line(digest),
        view.actions(status, is_stopping=False, can_end=False, refusal=EVIL),
        view.notes(find_recipe("practice"), [EVIL]),
        view.checkpoints(run, [EVIL, "general-000020"]),
    ]
    assert all("<script>" not in piece for piece in pieces)
    assert "general-000020" in pieces[-1]


def test_the_buttons_fit_the_state() -> None:
    def words(state: str, is_stopping: bool = False, can_end: bool = False) -> str:
        return view.actions(Status(state=state), is_stopping, can_end, refusal=None)

    assert "Stop and save" in words("running")
    assert "disabled" not in words("running")
    assert "disabled" in words("running", is_stopping=True)
    assert "End the process now" in words("running", is_stopping=True, can_end=True)
    assert "Resume" in words("stopped")
    assert "Resume" in words("died")
    assert "Start" in words("created")
    assert words("finished") == ""


def test_labels_of_runs_are_dates_for_people() -> None:
    run = Run(create_run({}, "x").folder.parent / "20261122-122447-practice-0069")
    assert view.run_label(run, "running") == "practice-0069, 22 Nov 12:24, running"
    odd = Run(run.folder.parent / "mine")
    assert view.run_label(odd, "finished") == "mine, finished"


def test_a_date_that_is_none_and_a_state_of_a_newer_trainer_do_not_end_the_list() -> None:
    """One such folder once made the page say for ever that the playground does not answer."""
    run = Run(create_run({}, "x").folder.parent / "20269999-000000-x")
    assert view.run_label(run, "finished") == "20269999-000000-x, finished"
    assert view.run_label(run, "paused") == "20269999-000000-x, paused"
    recipe, status = find_recipe("practice"), Status(state=EVIL, stage="general")
    for html in (view.heading(run, recipe, status, Digest()), view.stage_cards(recipe, status)):
        assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_message_is_not_shown_twice() -> None:
    digest = Digest()
    digest.feed([{"kind": "error", "message": "Out of memory."}])
    assert "Out of memory." in view.notices(digest)
    assert view.notices(digest, shown="Out of memory.") == ""


def test_what_was_asked_for_is_no_alarm() -> None:
    """A run that was ended on request said so in the red box of a failure."""
    run, recipe = create_run({}, "x"), find_recipe("practice")
    for state, is_alarm in (("stopped", False), ("failed", True), ("died", True)):
        html = view.heading(run, recipe, Status(state=state, error="Ended on request."), Digest())
        assert ("run-error" in html) is is_alarm
        assert "Ended on request." in html


def test_the_card_of_a_clone_names_its_break_and_its_growth() -> None:
    recipe = with_settings(find_recipe("practice"), "expand", width="clone")
    digest = Digest()
    digest.feed(
        [
            {"kind": "stage_started", "stage": "expand", "tokens": 0},
            {
                "kind": "growth",
                "stage": "expand",
                "parameters_before": 2_361_216,
                "parameters_after": 11_539_712,
            },
        ]
    )
    html = view.stage_cards(recipe, Status(state="running", stage="expand"), digest)
    assert "clone, break: noise" in html
    assert "2.36 M → 11.5 M" in html
