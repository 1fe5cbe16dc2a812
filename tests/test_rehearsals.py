"""Checks and rehearsals as real children: found again, stopped, and told when they died."""

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import PATIENCE_SECONDS, tiny_recipe

from stentor import rehearsals, side_jobs
from stentor.errors import RunError
from stentor.rehearsals import read, rehearsals_folder, start, stop, work_folder
from stentor.runs import list_runs, write_json
from training.recipe import Recipe, recipe_to_json, with_settings


@pytest.fixture
def recipe(tiny_model_folder: Path) -> Recipe:
    return tiny_recipe(tiny_model_folder)


def wait_for(name: str, words: str) -> dict[str, Any]:
    """Return the first answer whose state is over, or whose news hold `words`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    answer = read(name)
    while answer["state"] == "running" and not re.search(words, answer["news"]):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
        answer = read(name)
    return answer


def end_of(name: str) -> dict[str, Any]:
    return wait_for(name, "(?!)")


def test_a_check_is_a_process_whose_report_stays(recipe: Recipe) -> None:
    broken = with_settings(recipe, "story", learning_rate=0.9)
    name = start("check", recipe_to_json(broken))
    assert read(name)["state"] == "running" and read(name)["report"] is None
    answer = end_of(name)
    assert answer["state"] == "finished", answer["news"]
    report = answer["report"]
    assert [problem["what"] for problem in report["problems"]] == ["learning rate"]
    assert [window["stage"] for window in report["windows"]] == ["general", "story"]
    assert report["total"] is None and read(name) == answer, "it reads the same again"
    assert list_runs() == []
    stop(name)  # too late, without effect
    assert read(name) == answer


def test_a_recipe_that_is_none_is_a_problem_of_the_report(recipe: Recipe) -> None:
    values = recipe_to_json(recipe)
    values["stages"][1]["settings"]["num_steps"] = -4
    answer = end_of(start("check", values))
    assert answer["state"] == "finished"
    (problem,) = answer["report"]["problems"]
    assert (problem["level"], problem["what"]) == ("error", "recipe")
    assert "-4" in problem["message"]


def test_a_rehearsal_is_stopped_with_its_trainer(recipe: Recipe) -> None:
    """A trainer that outlived its rehearsal would hold the GPU of the run that is started next."""
    recipe = with_settings(recipe, "general", num_steps=1000, batch_size=24)
    name = start("rehearse", recipe_to_json(recipe))
    with pytest.raises(RunError, match="rehearsal is going already"):
        start("rehearse", recipe_to_json(recipe))
    answer = wait_for(name, "Rehearsing general: step")
    assert answer["state"] == "running", answer["news"]
    (work,) = rehearsals_folder().glob("work-*")
    status = json.loads((work / "runs" / "rehearsal" / "status.json").read_text())
    stop(name)
    assert read(name) == {"state": "failed", "news": "Stopped.", "report": None}
    assert not Path(f"/proc/{status['pid']}/cmdline").exists() and list_runs() == []
    assert not work.exists()


def test_a_killed_child_is_told_with_its_last_words(recipe: Recipe) -> None:
    name = start("check", recipe_to_json(recipe))
    answer = wait_for(name, "Looking")
    assert answer["state"] == "running"
    process = json.loads((rehearsals_folder() / name / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    answer = end_of(name)
    assert answer["state"] == "failed" and answer["report"] is None
    assert "ended before its report" in answer["news"] and "Looking" in answer["news"]


def test_nothing_is_started_on_a_public_space(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/playground")
    with pytest.raises(RunError, match="public Space"):
        start("check", recipe_to_json(recipe))
    assert not rehearsals_folder().exists()


@pytest.mark.parametrize("name", ["", "../runs", "20260101-000000-check-0123abcd", "work-x", None])
def test_what_is_no_id_is_refused(name: Any) -> None:  # noqa: ANN401 - from a browser
    with pytest.raises(RunError, match="There is no check or rehearsal"):
        read(name)
    with pytest.raises(RunError):
        stop(name)


def ended(number: int, age_seconds: float = 100.0) -> Path:
    """Make the folder of a check that has ended."""
    folder = rehearsals_folder() / f"2026010{number}-000000-check-0123abcd"
    folder.mkdir(parents=True)
    write_json(folder / "process.json", {"pid": 1 << 22, "process_start": "gone"})
    then = time.time() - age_seconds
    os.utime(folder, (then, then))
    return folder


def test_old_ones_and_what_killed_ones_left_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsals, "KEPT", 2)
    folders = [ended(1), ended(2), ended(3), ended(4, rehearsals.KEPT_SECONDS * 2)]
    left = rehearsals_folder() / "work-of-a-killed-one"
    left.mkdir()
    write_json(left / "process.json", {"pid": 1 << 22, "process_start": "gone"})
    with work_folder() as mine:
        rehearsals.clean_up()
        assert mine.exists() and not left.exists()
    assert [folder.exists() for folder in folders] == [False, False, True, False]
    assert not mine.exists()


def test_a_child_that_left_no_process_is_dead_after_a_moment() -> None:
    folder = ended(1, side_jobs.STARTING_SECONDS * 2)
    (folder / "process.json").unlink()
    os.utime(folder, (0, 0))
    answer = read(folder.name)
    assert answer["state"] == "failed" and "no word in its log" in answer["news"]
    os.utime(folder)
    assert read(folder.name)["state"] == "running"


def test_a_recipe_beyond_all_size_is_refused(recipe: Recipe) -> None:
    values = recipe_to_json(replace(recipe, purpose="x" * 1_100_000))
    with pytest.raises(RunError, match="No recipe has more"):
        start("check", values)
