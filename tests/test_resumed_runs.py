"""Runs that are resumed after something of them was lost, changed or left over.

One run is trained once; each test damages a copy of it and goes on.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import NUM_STEPS, create, final_weights, run_to_its_end, tiny_recipe

from stentor.loading import read_json
from stentor.runs import (
    Run,
    list_checkpoints,
    read_events,
    read_status,
    tail_events,
    tail_log,
    write_status,
)
from training.integrity import TRAINER_FILE, write_sealed
from training.runner import execute

pytestmark = pytest.mark.usefixtures("old_signals")

FINAL = f"story-{NUM_STEPS:06d}"


@pytest.fixture(scope="module")
def straight(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPACE_ID", raising=False)
        run = create(tiny_recipe(tiny_model_folder))
        assert run_to_its_end(run) == "finished", tail_log(run)
        yield run


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["kind"] == kind]


def copy_of(run: Run, folder: Path) -> Run:
    """Return a copy of a run, to be damaged and executed in this process."""
    shutil.copytree(run.folder, folder / run.id)
    return Run(folder / run.id)


def in_mid_story(run: Run, folder: Path) -> Run:
    """Return a copy of a finished run whose last stage has taken eight of its twelve steps."""
    copy = copy_of(run, folder)
    shutil.rmtree(copy.checkpoints_folder / FINAL)
    write_status(copy, replace(read_status(copy), finished_stages=("expand", "general")))
    return copy


def steps_after(run: Run, offset: int) -> set[tuple[object, object]]:
    events, _ = tail_events(run, offset)
    return {(event["stage"], event["step"]) for event in events if event["kind"] == "metrics"}


def test_a_stage_that_lies_behind_is_never_trained_again(straight: Run, tmp_path: Path) -> None:
    """A flipped bit or a deleted folder in a stage long past once had it trained anew, in silence,
    and its result was never looked at: the stage after it went on from its own checkpoint.
    """
    run = in_mid_story(straight, tmp_path)
    size = run.events_file.stat().st_size
    weights = run.checkpoints_folder / f"general-{NUM_STEPS:06d}" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.rmtree(run.checkpoints_folder / "expand-000000")
    assert execute(run) == 0
    assert steps_after(run, size) == {("story", step) for step in range(9, NUM_STEPS + 1)}
    (warning,) = [str(event["message"]) for event in of_kind(run, "warning")]
    assert str(weights) in warning and warning.endswith("; do not use it.")
    for name, tensor in final_weights(straight).items():
        assert torch.equal(tensor, final_weights(run)[name]), name


def test_a_stage_whose_result_was_lost_before_anything_followed_says_so(
    straight: Run, tmp_path: Path
) -> None:
    run = in_mid_story(straight, tmp_path)
    size = run.events_file.stat().st_size
    for folder in list_checkpoints(run):
        if folder.name.startswith("story") or folder.name == f"general-{NUM_STEPS:06d}":
            shutil.rmtree(folder)
    assert execute(run) == 0
    assert ("general", 8) not in steps_after(run, size) and ("general", 9) in steps_after(run, size)
    (warning,) = [str(event["message"]) for event in of_kind(run, "warning")]
    assert warning.startswith("Stage general was finished, and its checkpoint general-000012 is go")


def change(run: Run, **values: object) -> None:
    """Edit a setting of the last stage in recipe.json, as a user might."""
    recipe = json.loads(run.recipe_file.read_text())
    recipe["stages"][-1]["settings"].update(values)
    run.recipe_file.write_text(json.dumps(recipe))


def test_a_stage_under_way_refuses_other_windows_before_it_prepares_them(
    straight: Run, tmp_path: Path
) -> None:
    """The text was prepared anew over the old, and then the text on disk was blamed."""
    run = in_mid_story(straight, tmp_path)
    change(run, batch_size=2, learning_rate=1e-3)
    before = {path: path.read_bytes() for path in run.data_folder.rglob("*.*")}
    assert execute(run) == 2
    error = str(read_status(run).error)
    assert error.startswith(
        "The recipe was changed since story-000008: batch_size is 2 and was 4. A stage that has "
    )
    assert {path: path.read_bytes() for path in run.data_folder.rglob("*.*")} == before


def test_a_rate_and_a_number_of_processes_may_change_and_are_told(
    straight: Run, tmp_path: Path
) -> None:
    run = in_mid_story(straight, tmp_path)
    change(run, learning_rate=1e-3)
    newest = run.checkpoints_folder / "story-000008"
    write_sealed(newest, {**read_json(newest / TRAINER_FILE), "num_workers": 2})
    assert execute(run) == 0
    (warning,) = [event["message"] for event in of_kind(run, "warning")]
    assert warning == (
        "The recipe was changed since story-000008: learning_rate is 0.001 and was 0.002."
    )
    message = str(of_kind(run, "resumed")[-1]["message"])
    assert "It was trained by 2 and goes on with 1 process(es)" in message


def test_what_a_kill_left_beside_the_last_checkpoint_is_tidied_up(
    straight: Run, tmp_path: Path
) -> None:
    """A pruned checkpoint that a kill kept from being deleted stayed hidden for ever."""
    run = copy_of(straight, tmp_path)
    (run.checkpoints_folder / ".story-000004.deleted").mkdir()
    (run.checkpoints_folder / ".general-000004.partial").mkdir()
    assert execute(run) == 0
    assert not list(run.checkpoints_folder.glob(".*"))
