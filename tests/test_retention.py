"""Which checkpoints stay, and which one is gone on from: decided by steps, losses and digests."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from stentor.loading import open_checkpoint_folder
from stentor.runs import Run, create_run
from training.checkpoint import checkpoint_name, load_model, save_checkpoint
from training.optim import make_optimizer
from training.retention import newest_sound_checkpoint, prune_checkpoints
from training.settings import PretrainSettings


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


def save(run: Run, model: LlamaForCausalLM, tokenizer: Path, losses: Mapping[int, object]) -> None:
    """Write a checkpoint of stage `general` for each step, with its validation loss."""
    optimizer = make_optimizer(model, PretrainSettings())
    for step, loss in losses.items():
        folder = run.checkpoints_folder / checkpoint_name("general", step)
        save_checkpoint(folder, model, tokenizer, {"validation_loss": loss}, optimizer)


def steps_left(run: Run) -> list[int]:
    return sorted(int(path.name[-6:]) for path in run.checkpoints_folder.glob("general-*"))


def test_newest_means_most_steps_whatever_the_folders_times(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    """A run that was copied has its checkpoints' times in any order."""
    save(run, model, tiny_model_folder, {12: None, 1_000_000: None, 4: None, 8: None})
    (run.checkpoints_folder / "story-000002").mkdir()
    (run.checkpoints_folder / ".general-000007.partial").mkdir()
    resumed, _ = newest_sound_checkpoint(run, "general")
    assert resumed is not None and resumed.step == 1_000_000
    prune_checkpoints(run, "general", 1_000_000, keep_last=2, keep_best=False, keep_step=9)
    left = sorted(path.name for path in run.checkpoints_folder.iterdir())
    assert left == ["general-000012", "general-1000000", "story-000002"]


def test_the_best_is_kept_as_well(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    losses = {4: 3.0, 8: 2.0, 12: None, 16: float("nan"), 20: 2.5, 24: 2.25}
    save(run, model, tiny_model_folder, losses)
    prune_checkpoints(run, "general", 24, keep_last=3, keep_best=True, keep_step=24)
    assert steps_left(run) == [8, 16, 20, 24]
    prune_checkpoints(run, "general", 24, keep_last=1, keep_best=True, keep_step=24)
    assert steps_left(run) == [8, 24]
    prune_checkpoints(run, "general", 24, keep_last=1, keep_best=False, keep_step=24)
    assert steps_left(run) == [24]


def test_the_one_that_the_next_stage_goes_on_from_is_kept_as_well(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    save(run, model, tiny_model_folder, {4: 3.0, 8: 2.0, 12: 2.5, 16: 2.25})
    prune_checkpoints(run, "general", 16, keep_last=1, keep_best=True, keep_step=4)
    assert steps_left(run) == [4, 8, 16]


def test_a_damaged_checkpoint_never_displaces_a_sound_one(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    """With one kept, the damaged newest one was kept and the one just written was deleted."""
    save(run, model, tiny_model_folder, {4: 3.0, 8: 2.0})
    weights = run.checkpoints_folder / "general-000008" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    resumed, problems = newest_sound_checkpoint(run, "general")
    assert resumed is not None and (resumed.step, len(problems)) == (4, 1)
    assert resumed.details["validation_loss"] == 3.0
    save(run, model, tiny_model_folder, {6: 2.5})
    prune_checkpoints(run, "general", 6, keep_last=1, keep_best=True, keep_step=24)
    resumed, _ = newest_sound_checkpoint(run, "general")
    assert resumed is not None and resumed.step == 6
    assert steps_left(run) == [6, 8]
