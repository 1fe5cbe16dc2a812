"""Flags change a recipe, and say what is wrong with them."""

import argparse
import json
from pathlib import Path

import pytest

from stentor.errors import DataError, OptionError
from training.__main__ import make_parser
from training.recipe import Recipe, recipe_to_json, without_skipped
from training.recipe_flags import (
    MAX_RECIPE_BYTES,
    TEXT_ENDINGS,
    add_recipe_flags,
    chosen_recipe,
    open_recipe,
    refuse_changes,
)
from training.settings import PretrainSettings
from training.sources import FILE_READERS


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


def test_options_that_need_each_other_may_come_in_any_order() -> None:
    """Each --set was once checked alone, so that two right values were refused one by one."""
    shape = ("--set", "expand.num_heads=3", "--set", "expand.hidden_size=192")
    settings = chosen(*shape).stages[0].settings
    assert vars(settings)["hidden_size"] == 192
    recipe = chosen("--skip", "general", "--skip", "expand", "--devices", "0,1")
    assert [stage.skip for stage in recipe.stages] == [True, True, False, False]
    assert [stage.name for stage in without_skipped(recipe).stages] == ["narrative", "textbook"]
    assert recipe.device_numbers() == (0, 1)


def test_a_recipe_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(recipe_to_json(chosen("--seed", "7"))), encoding="utf-8")
    assert open_recipe(str(file)) == chosen("--seed", "7")
    with pytest.raises(DataError, match="cannot be read"):
        open_recipe(str(tmp_path / "absent.json"))
    file.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is no JSON"):
        open_recipe(str(file))
    file.write_text(" " * (MAX_RECIPE_BYTES + 1), encoding="utf-8")
    with pytest.raises(DataError, match="more than 1,000,000 bytes"):
        open_recipe(str(file))
    file.write_text("[]", encoding="utf-8")
    with pytest.raises(OptionError, match="list of stages"):
        open_recipe(str(file))


def test_corpora_are_the_texts_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(TEXT_ENDINGS) == set(FILE_READERS)
    (tmp_path / "narrative").mkdir()
    for name in ("narrative.md", ".narrative.txt"):
        (tmp_path / name).write_text("No text of a recipe.")
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    add_recipe_flags(parser)
    monkeypatch.chdir(tmp_path.parent)
    parsed = parser.parse_args(["card", "--corpora", tmp_path.name])
    assert stage(chosen_recipe(parsed), "narrative").sources[0].paths == (
        str(tmp_path / "narrative"),
    )
    (tmp_path / "Narrative.JSONL").touch()
    with pytest.raises(DataError, match=f"{tmp_path}: 2 entries fit the source 'narrative'"):
        chosen_recipe(parsed)
    with pytest.raises(DataError, match="waits for text of your own"):
        chosen("--corpora", str(tmp_path))
    with pytest.raises(DataError, match="absent cannot be read: No such file"):
        chosen("--corpora", str(tmp_path / "absent"))
    with pytest.raises(OptionError, match="is a run; its recipe cannot be changed"):
        refuse_changes(parsed)
    refuse_changes(parser.parse_args(["a-run"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mix", "narrative=1"], "1 weights for 0 texts. Give one weight for each --text"),
        (["--mix", "narrative=a,b"], "write it like narrative=75,25"),
        (["--mix", "narrative=0"], "every weight must be above 0"),
        (["--mix", "narrative=nan"], "every weight must be above 0"),
        (["--set", "general"], "write it like general.learning_rate=1e-4"),
        (["--set", "generla.num_steps=4"], "No stage is called 'generla'. Did you mean 'general'"),
        (["--set", "general.steps=4"], "No option of general is called 'steps'"),
        (["--set", "general.num_steps=many"], "Num steps must be a whole number; got 'many'"),
        (["--set", "general.sources=5"], "Sources must be a list of Source; got 5"),
        (["--processes", "0"], "Num processes must be at least 1; got 0"),
        (["--skip", "generla"], "No stage is called 'generla'. Did you mean 'general'"),
        (["--skip", "expand", "--devices", "gpu0"], "Devices must be like 0 or 0,1, or nothing"),
        (["--text", "expand=a.txt"], "No stage that reads text is called 'expand'"),
    ],
)
def test_what_a_flag_cannot_mean_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        chosen(*words)
    assert message in str(caught.value)


def test_the_thresholds_of_the_alarms_can_be_set() -> None:
    flags = ["run", "practice", "--set", "alarms.plateau_steps=500", "--set", "general.num_steps=7"]
    recipe = chosen_recipe(make_parser().parse_args(flags))
    assert recipe.alarms.plateau_steps == 500
    assert recipe.stages[1].total_steps() == 7
    for wrong in ("alarms.noise=1", "alarms.plateau_steps=-1"):
        with pytest.raises(OptionError):
            chosen_recipe(make_parser().parse_args(["run", "practice", "--set", wrong]))
