"""Flags change a recipe, and say what is wrong with them."""

import argparse
from pathlib import Path

import pytest

from stentor.errors import OptionError
from training.recipe import Recipe
from training.recipe_flags import add_recipe_flags, chosen_recipe
from training.settings import PretrainSettings


def chosen(*words: str) -> Recipe:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    add_recipe_flags(parser)
    return chosen_recipe(parser.parse_args(["practice", *words]))


def stage(recipe: Recipe, name: str) -> PretrainSettings:
    settings = next(stage.settings for stage in recipe.stages if stage.name == name)
    assert isinstance(settings, PretrainSettings)
    return settings


def test_texts_of_a_stage_take_shares() -> None:
    files = ("--text", "narrative=a.txt", "--text", "narrative=b=c.txt")
    sources = stage(chosen(*files, "--mix", "narrative=75,25"), "narrative").sources
    assert [Path(source.paths[0]).name for source in sources] == ["a.txt", "b=c.txt"]
    assert [source.weight for source in sources] == [0.75, 0.25]
    assert stage(chosen(*files), "general").sources[0].kind == "generated"


def test_any_option_of_a_stage_can_be_set() -> None:
    recipe = chosen("--set", "general.learning_rate=1e-4", "--set", "general.schedule=wsd")
    assert stage(recipe, "general").learning_rate == 1e-4
    assert stage(recipe, "general").schedule == "wsd"
    assert stage(recipe, "textbook") == stage(chosen(), "textbook")
    assert stage(chosen("--set", "general.keep_best=false"), "general").keep_best is False
    assert chosen("--processes", "2", "--seed", "5").num_processes == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "narrative=1"], "1 weights for 0 texts. Give one weight for each --text"),
        (["--mix", "narrative=a,b"], "write it like narrative=75,25"),
        (["--mix", "narrative=0"], "every weight must be above 0"),
        (["--mix", "narrative=nan"], "every weight must be above 0"),
        (["--set", "general"], "write it like general.learning_rate=1e-4"),
        (["--set", "generla.num_steps=4"], "No stage is called 'generla'. Did you mean 'general'"),
        (["--set", "general.steps=4"], "No option of stage general is called 'steps'"),
        (["--set", "general.num_steps=many"], "Num steps must be a whole number; got 'many'"),
        (["--set", "general.sources=5"], "Sources must be a list of Source; got 5"),
        (["--processes", "0"], "Num processes must be at least 1; got 0"),
        (["--text", "expand=a.txt"], "No stage that reads text is called 'expand'"),
    ],
)
def test_what_a_flag_cannot_mean_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        chosen(*words)
    assert message in str(caught.value)
