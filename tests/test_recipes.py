"""The named recipes: what the card says, and what a laptop can do."""

import pytest

from stentor.errors import OptionError
from stentor.models import MODELS
from training.recipe import (
    ExpandSettings,
    PretrainSettings,
    Recipe,
    recipe_from_json,
    recipe_to_json,
)
from training.recipes import RECIPES, find_recipe
from training.show import describe_recipe
from training.stages import STAGES


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
    assert growth == ExpandSettings("slice", "random_top", 512, 2048, 30, 8)
    # The card does not add up, and the recipe says so.
    assert round(sum(s.total_tokens() for s in settings) / 1e9, 2) == 1.75
    assert "do not agree" in card.notes[0]


def test_practice_fits_a_laptop() -> None:
    practice = find_recipe("practice")
    assert practice.start == "demo-base"
    assert [stage.kind for stage in practice.stages] == ["expand"] + ["pretrain"] * 3
    assert sum(s.total_tokens() for s in trainings(practice)) < 200_000
    for settings in trainings(practice):
        assert settings.checkpoint_every < settings.num_steps
        assert all(source.kind == "generated" for source in settings.sources)
