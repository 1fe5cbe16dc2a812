"""The pipeline of a run as cards."""

from dataclasses import replace

from stentor.runs import Status
from stentor.ui.chart import Digest
from stentor.ui.train_cards import stage_cards
from training.recipe import with_settings
from training.recipes import RECIPES, find_recipe

EVIL = "<script>alert(1)</script>"


def test_every_recipe_has_a_card_per_stage_with_its_numbers() -> None:
    for name in RECIPES:
        recipe = find_recipe(name)
        html = stage_cards(recipe, Status(), Digest())
        assert html.count('<li class="stage"') == len(recipe.stages)
        for stage in recipe.stages:
            assert stage.title in html
    card = stage_cards(find_recipe("card"), Status(), Digest())
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
    html = stage_cards(recipe, status, digest)
    assert html.count('data-state="done"') == 1
    assert html.count('data-state="running"') == 1
    assert html.count('aria-current="step"') == 1
    assert html.count('data-state="waiting"') == 2
    assert "same function" in html
    assert "5.00 → 2.50" in html
    assert "5 of 20" in html


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
    html = stage_cards(recipe, Status(state="running", stage="expand"), digest)
    assert "clone, break: noise" in html
    assert "2.36 M → 11.5 M" in html


def test_a_skipped_stage_and_a_run_in_line_seem_neither_running_nor_done() -> None:
    recipe = find_recipe("practice")
    skipped = replace(recipe.stages[1], skip=True)
    recipe = replace(recipe, stages=(recipe.stages[0], skipped, *recipe.stages[2:]))
    html = stage_cards(recipe, Status(state="queued", stage="narrative"), Digest())
    assert html.count('data-state="skipped"') == 1
    assert html.count('data-state="waiting"') == len(recipe.stages) - 1


def test_a_state_of_a_newer_trainer_is_escaped() -> None:
    status = Status(state=EVIL, stage="general")
    html = stage_cards(find_recipe("practice"), status, Digest())
    assert "<script>" not in html and "&lt;script&gt;" in html
