"""A rehearsal against the run that it foretells. Real processes of the tiny recipe."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import create, run_to_its_end, tiny_recipe

from stentor.rehearsals import rehearsals_folder
from stentor.runs import list_runs, read_events
from training.preflight.checks import Preflight, preflight
from training.preflight.disk_use import size_of
from training.preflight.rehearsal import rehearse
from training.preflight.report import Report
from training.recipe import Recipe, with_settings
from training.settings import Source

SECONDS = 240.0


def rehearsed(recipe: Recipe, seconds: float = SECONDS, num_steps: int = 20) -> Report:
    found: Preflight = preflight(recipe, print)
    return rehearse(recipe, found, print, num_steps=num_steps, seconds=seconds)


def test_a_rehearsal_foretells_the_disk_and_touches_no_run(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate of what is left agrees with what the run leaves, which nobody has measured."""
    recipe = tiny_recipe(tiny_model_folder)
    report = rehearsed(recipe)
    assert list_runs() == [] and list(rehearsals_folder().iterdir()) == []
    assert [problem for problem in report.problems if problem.level == "error"] == []
    said = capsys.readouterr().out
    assert "Rehearsing general: step 12 of 12" in said, "no more steps than the stage has"
    assert "Rehearsing story" not in said, "it does the same work as the general stage"
    assert report.steps_rehearsed == 12 and report.total is not None

    run = create(recipe)
    assert run_to_its_end(run) == "finished"
    left = size_of(run.folder)
    assert report.total.disk_left_bytes == pytest.approx(left, rel=0.2)
    assert report.total.disk_bytes > report.total.disk_left_bytes
    by_name = {stage.name: stage for stage in report.stages}
    folder = run.checkpoints_folder / "general-000008"
    assert by_name["general"].checkpoint_bytes == pytest.approx(size_of(folder), rel=0.02)
    grown = run.checkpoints_folder / "expand-000000"
    assert by_name["expand"].checkpoint_bytes == pytest.approx(size_of(grown), rel=0.02)
    memory = [e["measured"] for e in read_events(run) if e["kind"] == "memory" and e["measured"]]
    assert by_name["general"].memory_measured == pytest.approx(max(memory), rel=0.15)
    for stage in report.stages:
        assert stage.seconds is not None and stage.seconds > 0
    assert report.total.seconds > sum(stage.seconds or 0 for stage in report.stages)


def test_stages_whose_work_differs_are_measured_each(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = with_settings(tiny_recipe(tiny_model_folder), "story", batch_size=6)
    report = rehearsed(recipe, num_steps=6)
    said = capsys.readouterr().out
    assert "Rehearsing general: step 6 of 6" in said and "Rehearsing story: step 6 of 6" in said
    assert report.steps_rehearsed == 12 and report.total is not None


def test_a_rehearsal_that_is_late_tells_what_it_could_not_measure(tiny_model_folder: Path) -> None:
    recipe = tiny_recipe(tiny_model_folder)
    report = rehearsed(recipe, seconds=0.0)
    assert report.total is None
    (problem,) = [problem for problem in report.problems if "was stopped after" in problem.message]
    assert problem.level == "warning" and "general, story" in problem.message
    assert "--minutes" in problem.mend


def test_a_trainer_that_fails_is_told_with_its_reason(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The text was there when it was looked at, and is gone when the rehearsal reads it."""
    text = tmp_path / "story.txt"
    text.write_text("The miller counts the sacks of grain. " * 400)
    recipe = tiny_recipe(tiny_model_folder, (Source(kind="files", paths=(str(text),)),))
    recipe = with_settings(recipe, "general", max_epochs=50.0)
    found = preflight(recipe, print)
    assert not found.report.has_errors
    text.unlink()
    report = rehearse(recipe, found, print, num_steps=5, seconds=SECONDS)
    assert report.total is None and report.has_errors
    problem = report.problems[0]
    assert problem.message.startswith("The rehearsal failed: ") and str(text) in problem.message


def test_there_is_no_rehearsal_before_errors_are_mended(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(tiny_recipe(tiny_model_folder), start=str(tmp_path / "nothing"))
    report = rehearsed(recipe)
    assert report.has_errors and report.total is None and not rehearsals_folder().exists()
    assert "before the errors are mended" in capsys.readouterr().out
