"""The named recipes: what the card says, and what a laptop can do."""

from dataclasses import replace

import pytest

from stentor.errors import OptionError
from stentor.models import MODELS
from training.recipe import (
    Recipe,
    Stage,
    recipe_from_json,
    recipe_to_json,
    sources_of,
    with_budget,
    with_text,
)
from training.recipes import RECIPES, find_recipe
from training.settings import CreateSettings, ExpandSettings, PretrainSettings
from training.show import describe_recipe
from training.stages import STAGES

# Whose steps and tokens are the card's, which do not agree.
AS_LONG_AS_THE_CARD = ("card", "stentor-big-plus")


def trainings(recipe: Recipe) -> list[PretrainSettings]:
    return [s.settings for s in recipe.stages if isinstance(s.settings, PretrainSettings)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_sound_and_named_as_in_the_table(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.start is None or recipe.start in MODELS
    assert all(stage.kind in STAGES for stage in recipe.stages)
    assert recipe_from_json(recipe_to_json(recipe)) == recipe
    text = describe_recipe(recipe)
    for stage in recipe.stages:
        assert f"{stage.name} ({stage.kind}): {stage.title}" in text


def test_an_unknown_recipe_is_answered_with_what_exists() -> None:
    with pytest.raises(
        OptionError, match=r"No recipe is called 'practise'. Did you mean 'practice'"
    ):
        find_recipe("practise")


def test_the_cards_numbers() -> None:
    card = find_recipe("card")
    settings = trainings(card)
    assert [s.num_steps for s in settings] == [9_500, 6_500, 7_171]
    assert [s.num_tokens for s in settings] == [279_000_000, 1_030_000_000, 1_020_000_000]
    assert [s.batch_size for s in settings] == [128, 128, 192]
    assert [s.learning_rate for s in settings] == [2e-4, 2e-4, 1.5e-4]
    for stage in settings:
        assert (stage.warmup_fraction, stage.weight_decay, stage.clip_norm) == (0.05, 0.01, 1.0)
        assert stage.gradient_checkpointing and stage.budget == "steps"
    growth = card.stages[0].settings
    assert growth == ExpandSettings(width="slice", depth="random_top")
    # The card does not add up, and the recipe says so.
    assert round(sum(s.total_tokens() for s in settings) / 1e9, 2) == 1.75
    assert "do not agree" in card.notes[0]


@pytest.mark.parametrize("budget", ["steps", "tokens"])
def test_the_improved_recipe_costs_what_the_card_costs(budget: str) -> None:
    plus, card = (with_budget(find_recipe(name), budget) for name in AS_LONG_AS_THE_CARD[::-1])
    for ours, theirs in zip(trainings(plus), trainings(card), strict=True):
        assert (ours.total_steps(), ours.batch_size) == (theirs.total_steps(), theirs.batch_size)
        own = {(s.kind, s.name) for s in ours.sources if s.kind != "replay"}
        assert own == {(source.kind, source.name) for source in theirs.sources}


@pytest.mark.parametrize("budget", ["steps", "tokens"])
def test_the_improved_recipe_has_one_schedule_over_three_stages(budget: str) -> None:
    """At the seams the rate stays, the moments go on, and only the last stage decays."""
    settings = trainings(with_budget(find_recipe("stentor-big-plus"), budget))
    assert {(s.schedule, s.learning_rate) for s in settings} == {("wsd", 2e-4)}
    assert [s.carry_optimizer for s in settings] == [False, True, True]
    assert [s.warmup_fraction > 0 for s in settings] == [True, False, False]
    assert [s.decay_fraction > 0 for s in settings] == [False, False, True]
    steps = [s.total_steps() for s in settings]
    assert 0.15 <= settings[-1].decay_fraction * steps[-1] / sum(steps) <= 0.21
    assert settings[0].warmup_fraction * steps[0] / sum(steps) < 0.021
    assert not any(s.gradient_checkpointing for s in settings)


def test_the_improved_recipe_replays_what_came_before() -> None:
    plus = find_recipe("stentor-big-plus")
    assert plus.stages[0].settings == ExpandSettings(width="zero_pad", depth="identity_interleave")
    _, general, narrative, textbook = plus.stages
    fineweb, sciphi = "HuggingFaceFW/fineweb-edu", "SciPhi/textbooks-are-all-you-need-lite"
    assert [s.name for s in sources_of(plus, general)] == [fineweb]
    assert [(s.kind, s.weight) for s in sources_of(plus, narrative)] == [
        ("files", 75.0),
        ("hub", 25.0),
    ]
    shares = [(s.kind, s.name, s.weight) for s in sources_of(plus, textbook)]
    assert shares == [
        ("hub", fineweb, 32.5),
        ("hub", sciphi, 32.5),
        ("hub", fineweb, 25.0),
        ("files", "narrative", 10.0),
    ]
    # Own stories take the place of the collection, and the share read again stays.
    own = sources_of(with_text(plus, ("a.txt", "b.txt"), "narrative"), narrative)
    assert [(s.kind, s.weight) for s in own] == [("files", 75.0), ("hub", 25.0)]


def test_both_budgets_agree_except_where_the_card_does_not() -> None:
    """The demo pair was shown as '24 steps' by its recipe, the default of a field nobody set."""
    for name in RECIPES:
        says_so = "; not the recipe's" in describe_recipe(find_recipe(name))
        assert says_so == (name in AS_LONG_AS_THE_CARD)
        if name not in AS_LONG_AS_THE_CARD:
            for settings in trainings(find_recipe(name)):
                by_steps, by_tokens = (replace(settings, budget=b) for b in ("steps", "tokens"))
                assert by_steps.total_steps() == by_tokens.total_steps()


def test_every_number_of_a_stage_is_shown() -> None:
    settings = PretrainSettings(
        num_steps=1001,
        num_tokens=9_999,
        batch_size=6,
        micro_batch_size=3,
        learning_rate=0.125,
        warmup_fraction=0.07,
        final_fraction=0.13,
        validation_windows=17,
        weight_decay=0.19,
        clip_norm=23.0,
        validate_every=29,
        checkpoint_every=31,
        gradient_checkpointing=True,
    )
    create = CreateSettings(max_characters=37_000)
    stages = (Stage("create", "create", "New", create), Stage("base", "pretrain", "T", settings))
    text = describe_recipe(Recipe("all", "All", "Shows.", None, stages, num_threads=2))
    for shown in (
        "threads 2",
        "vocabulary 4,096 from generated text, general, at most 37,000 characters",
        "1,001 steps of 6 windows = 3,075,072 tokens (budget: steps; not the recipe's 9,999",
        "3 windows at a time, with gradient checkpointing",
        "learning rate 0.125, warm-up 7%, cosine to 13%, weight decay 0.19, clip 23",
        "17 held-out windows, validated every 29 steps; a checkpoint every 31",
    ):
        assert shown in text


def test_practice_fits_a_laptop() -> None:
    practice = find_recipe("practice")
    assert practice.start == "demo-base"
    assert [stage.kind for stage in practice.stages] == ["expand"] + ["pretrain"] * 3
    assert sum(s.total_tokens() for s in trainings(practice)) < 200_000
    for settings in trainings(practice):
        assert settings.checkpoint_every < settings.num_steps
        assert all(source.kind == "generated" for source in settings.sources)


def test_the_demo_pair_and_its_control_differ_in_the_growth_alone() -> None:
    pair, control = find_recipe("demo-pair"), find_recipe("demo-pair-scratch")
    big = next(s.settings for s in pair.stages if isinstance(s.settings, ExpandSettings))
    made = next(s.settings for s in control.stages if isinstance(s.settings, CreateSettings))
    for field in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
        assert getattr(made, field) == getattr(big, field)
    assert [s.name for s in control.stages] == [s.name for s in pair.stages if s.name != "expand"]
    for ours, theirs in zip(trainings(pair), trainings(control), strict=True):
        for field in ("sources", "batch_size", "optimizer", "weight_decay", "precision"):
            assert getattr(ours, field) == getattr(theirs, field)
        assert ours.total_steps() == theirs.total_steps()
    settings = trainings(control)
    assert len({s.learning_rate for s in settings}) == 1
    assert [s.warmup_fraction > 0 for s in settings] == [True, False, False, False]
    assert [s.decay_fraction > 0 for s in settings] == [False, False, False, True]
    assert [s.carry_optimizer for s in settings] == [False, True, True, True]
