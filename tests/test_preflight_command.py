"""The verbs `check` and `rehearse`: what they print, write and return."""

import argparse
import json
from pathlib import Path

import pytest
from tiny_recipe import tiny_recipe

from training.preflight import command
from training.recipe import recipe_to_json, with_settings


@pytest.fixture
def recipe_file(tiny_model_folder: Path, tmp_path: Path) -> Path:
    recipe = with_settings(tiny_recipe(tiny_model_folder), "story", learning_rate=0.9)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(recipe_to_json(recipe)))
    return path


def check(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_check_flags(parser)
    return command.run_check(parser.parse_args(arguments))


def test_people_get_a_table_and_machines_get_json(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(recipe_file)) == 2, "there is an error"
    shown = capsys.readouterr().out
    assert "Error (stage story, learning rate)" in shown and "tokens/s" in shown

    report = tmp_path / "report.json"
    flags = ["--json", "--report", str(report)]
    assert check(str(recipe_file), *flags, "--set", "story.learning_rate=1e-3") == 0
    captured = capsys.readouterr()
    values = json.loads(captured.out)
    assert values == json.loads(report.read_text())
    assert set(values) == {
        *("problems", "windows", "stages", "total", "machine", "steps_rehearsed"),
    }
    assert values["problems"] == [] and "Making windows of general" in captured.err


def test_skipped_stages_are_not_looked_at(
    recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(recipe_file), "--json", "--skip", "story") == 0
    values = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in values["stages"]] == ["expand", "general"]


def test_what_is_no_recipe_is_a_problem_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(str(tmp_path / "none.json"), "--json") == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["what"], problem["level"]) == ("recipe", "error")


@pytest.mark.parametrize("flags", [["--steps", "2"], ["--minutes", "0"]])
def test_a_rehearsal_of_nothing_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    command.add_rehearse_flags(parser)
    assert parser.parse_args(["practice"]).steps == 20
    with pytest.raises(SystemExit):
        parser.parse_args(["practice", *flags])
    assert "must be at least" in capsys.readouterr().err
