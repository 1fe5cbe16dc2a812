"""A training stage from its start to its end, or to the step that must not be taken."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recipe import GROWN, TRAINING, create, losses, metrics

from stentor.loading import open_checkpoint_folder, read_json
from stentor.model_folder import WEIGHTS_FILE
from stentor.runs import Run, current_status, list_checkpoints, read_events
from training.checkpoint import remove_checkpoint
from training.flops import training_flops_per_token
from training.integrity import TRAINER_FILE
from training.recipe import Recipe, Stage
from training.recorder import Recorder
from training.runner import execute
from training.settings import ExpandSettings, PretrainSettings, Source
from training.trainer_state import OPTIMIZER_FILE, RANDOM_FILE

pytestmark = pytest.mark.usefixtures("old_signals")

QUICK = replace(TRAINING, num_steps=4, batch_size=2, validate_every=4, checkpoint_every=2)


def recipe_of(start: Path, *settings: PretrainSettings | ExpandSettings) -> Recipe:
    """Return a recipe of stages `a`, `b`, ... with these settings."""
    stages = tuple(
        Stage(name, "pretrain" if isinstance(item, PretrainSettings) else "expand", name, item)
        for name, item in zip("abc", settings, strict=False)
    )
    return Recipe("quick", "Quick", "A test.", str(start), stages, seed=3, num_threads=1)


def events_of(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["kind"] == kind]


def moments(run: Run, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run.checkpoints_folder / name / OPTIMIZER_FILE)
    return found


def test_a_stage_tells_what_its_numbers_mean(tiny_model_folder: Path) -> None:
    mixture = (Source(weight=3.0), Source(name="narrative", weight=1.0))
    run = create(recipe_of(tiny_model_folder, replace(QUICK, sources=mixture)))
    assert execute(run) == 0
    (started,) = events_of(run, "stage_started")
    shape = open_checkpoint_folder(tiny_model_folder).shape
    assert started["flops_per_token"] == training_flops_per_token(shape)
    facts = (started["precision"], started["num_workers"], started["tokens_per_step"])
    assert facts == ("bf16" if torch.cuda.is_available() else "fp32", 1, 1024)
    assert started["schedule"] == QUICK.describe_schedule()
    (data,) = events_of(run, "data")
    labels = ["generated text, general", "generated text, narrative"]
    assert list(data["held_out_windows"]) == labels and data["epochs"] <= 1.001
    *_, last = events_of(run, "validation")
    assert list(last["by_source"]) == labels
    assert min(last["by_source"].values()) <= last["loss"] <= max(last["by_source"].values())
    final = read_json(run.checkpoints_folder / "a-000004" / TRAINER_FILE)
    assert (final["validation_loss"], final["validation_by_source"]) == (
        last["loss"],
        last["by_source"],
    )
    assert final["data"]["window"] == 8 and final["schedule"]["total_steps"] == 4
    predicted, measured = events_of(run, "memory")
    assert predicted["parts"]["weights"] > 0 and measured["measured"] > 0


def test_the_best_checkpoint_is_kept_beside_the_last(tiny_model_folder: Path) -> None:
    """The rate is far too high, so the loss rises from some step on."""
    settings = replace(
        QUICK,
        num_steps=8,
        checkpoint_every=1,
        keep_last=1,
        learning_rate=1.0,
        schedule="wsd",
        decay_fraction=0.0,
    )
    run = create(recipe_of(tiny_model_folder, settings))
    assert execute(run) == 0
    measured = {step: loss for (_, step), loss in losses(run, "validation").items() if step}
    best = min(measured, key=lambda step: measured[step])
    assert list(measured) == list(range(1, 9)), "each checkpoint is judged at its own step"
    names = {folder.name for folder in list_checkpoints(run)}
    assert names == {f"a-{best:06d}", "a-000008"} and best != 8


def test_one_schedule_over_two_stages_carries_the_moments(tiny_model_folder: Path) -> None:
    """Two stages of four steps that carry them are what one optimizer sees in eight."""
    carrying = replace(QUICK, carry_optimizer=True)
    run = create(recipe_of(tiny_model_folder, QUICK, carrying))
    assert execute(run) == 0
    first, last = (run.checkpoints_folder / name for name in ("a-000004", "b-000004"))
    assert (first / OPTIMIZER_FILE).is_file() and (first / RANDOM_FILE).is_file()
    assert not (last / OPTIMIZER_FILE).exists(), "nobody goes on with those"
    steps = [moments(run, name)["model.norm.weight.step"] for name in ("a-000004", "b-000002")]
    assert [float(step) for step in steps] == [4.0, 6.0]
    fresh = create(recipe_of(tiny_model_folder, QUICK, QUICK))
    assert execute(fresh) == 0
    assert not (fresh.checkpoints_folder / "a-000004" / OPTIMIZER_FILE).exists()
    assert float(moments(fresh, "b-000002")["model.norm.weight.step"]) == 2.0
    one, two = metrics(run), metrics(fresh)
    assert one["b", 1] == two["b", 1] and one["b", 2] != two["b", 2]


def test_the_next_stage_branches_off_before_the_decay(tiny_model_folder: Path) -> None:
    """Grown before its rate decays, a model learns on better; its own end is still to be had."""
    branching = replace(
        QUICK,
        num_steps=6,
        keep_last=1,
        keep_best=False,
        schedule="wsd",
        decay_fraction=0.5,
        branch_fraction=0.5,
    )
    run = create(recipe_of(tiny_model_folder, branching, GROWN, QUICK))
    assert execute(run) == 0
    names = [folder.name for folder in list_checkpoints(run)]
    assert set(names) == {"a-000003", "a-000006", "b-000000", "c-000002", "c-000004"}
    weights = {name: load_file(run.checkpoints_folder / name / WEIGHTS_FILE) for name in names}
    key = "model.layers.0.mlp.up_proj.weight"
    old = weights["a-000003"][key]
    assert torch.equal(weights["b-000000"][key][: old.shape[0], : old.shape[1]], old)
    assert not torch.equal(weights["a-000006"][key], old)
    assert events_of(run, "metrics")[-1]["tokens"] == 10 * 1024, "the run's own axis"
    final = read_json(run.checkpoints_folder / "c-000004" / TRAINER_FILE)
    assert final["tokens"] == 7 * 1024, "those that led to these weights"


def test_a_stage_that_branches_off_carries_the_moments_of_its_branch(
    tiny_model_folder: Path,
) -> None:
    branching = replace(QUICK, keep_last=1, keep_best=False, branch_fraction=0.25)
    run = create(recipe_of(tiny_model_folder, branching, replace(QUICK, carry_optimizer=True)))
    assert execute(run) == 0
    assert not (run.checkpoints_folder / "a-000004" / OPTIMIZER_FILE).exists()
    assert float(moments(run, "b-000002")["model.norm.weight.step"]) == 3.0
    for name in ("a-000001", "b-000002", "b-000004"):
        remove_checkpoint(run.checkpoints_folder / name)
    assert execute(run) == 2
    assert "a-000001" in str(current_status(run).error), "it cannot be trained again"


def test_a_diverged_step_names_its_windows_and_ends_the_run(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """In the last step of a stage it once ended the run as finished."""
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for file in tiny_model_folder.iterdir():
        (poisoned / file.name).write_bytes(file.read_bytes())
    weights = load_file(poisoned / "model.safetensors")
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    run = create(recipe_of(poisoned, replace(QUICK, num_steps=1)))
    assert execute(run) == 2
    status = current_status(run)
    assert status.state == "failed" and list_checkpoints(run) == []
    assert "Loss nan and gradient norm nan at step 1: training has" in str(status.error)
    assert "generated text, general, shard 0, offset " in str(status.error)
    assert "No checkpoint was written yet" in str(status.error)
    (halted,) = events_of(run, "halted")
    assert (halted["stage"], halted["step"], len(halted["windows"])) == ("a", 1, 2)
    assert all(math.isnan(w["loss"]) and w["text"] for w in halted["windows"])
    (step,) = events_of(run, "metrics")
    assert math.isnan(step["loss"]), "the chart shows the NaN"


def test_an_absurd_rate_leaves_the_last_sound_checkpoint(tiny_model_folder: Path) -> None:
    """Without clipping, weights of 1e38 follow within steps, and products of them are infinite."""
    settings = replace(
        QUICK,
        num_steps=6,
        checkpoint_every=1,
        keep_best=False,
        learning_rate=1.0,
        warmup_fraction=0.0,
        weight_decay=1.0,
        schedule="wsd",
        clip_norm=0.0,
    )
    run = create(recipe_of(tiny_model_folder, settings))
    with pytest.MonkeyPatch.context() as patch:
        # Beyond what settings allow: a rate of 1 only makes a loss of hundreds.
        patch.setattr(
            "training.loop.learning_rate_factor", lambda step, _: 1.0 if step < 3 else 1e38
        )
        assert execute(run) == 2
    error = str(current_status(run).error)
    (halted,) = events_of(run, "halted")
    assert halted["checkpoint"] == f"a-{halted['step'] - 1:06d}"
    assert f"Checkpoint {halted['checkpoint']} is kept; resume goes on from it." in error
    assert list_checkpoints(run)[-1].name == halted["checkpoint"]


def test_weights_that_the_last_step_spoiled_are_no_finished_stage(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next stage began with them, diverged at once, and no resume could ever mend it."""
    rates = {3: math.inf}  # no setting allows it; it stands for an update that overflows
    monkeypatch.setattr("training.loop.learning_rate_factor", lambda step, _: rates.get(step, 1.0))
    run = create(recipe_of(tiny_model_folder, QUICK, QUICK))
    assert execute(run) == 2
    status = current_status(run)
    assert str(status.error).startswith("Validation loss nan after step 4: this step has spoiled ")
    assert "Checkpoint a-000002 is kept; resume goes on from it." in str(status.error)
    assert (status.stage, status.finished_stages) == ("a", ())
    (halted,) = events_of(run, "halted")
    assert halted["step"] == 4 and len(halted["windows"]) == 2
    monkeypatch.undo()
    assert execute(run) == 0, "with a bearable rate it goes on"


def test_a_stop_while_text_is_prepared_ends_the_run_at_once(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corpus takes hours; the wish was once granted after all of it and a step."""
    monkeypatch.setattr("training.shards.SHARD_WINDOWS", 2)
    run = create(recipe_of(tiny_model_folder, QUICK))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "stop_requested", lambda _: True)
        assert execute(run) == 0
    assert current_status(run).state == "stopped"
    assert events_of(run, "metrics") == [] and list_checkpoints(run) == []
    assert list(run.data_folder.rglob("*.bin")), "what was finished is kept"
    assert execute(run) == 0
    straight = create(recipe_of(tiny_model_folder, QUICK))
    assert execute(straight) == 0
    assert metrics(run) == metrics(straight)


def test_a_compiler_that_is_not_there_is_said(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("No working C++ compiler found\nsecond line")

    monkeypatch.setattr("torch.compile", refuse)
    monkeypatch.setattr("training.network.TrainingNetwork.uses_kernels", lambda *_: False)
    run = create(recipe_of(tiny_model_folder, replace(QUICK, num_steps=1, torch_compile=True)))
    assert execute(run) == 0
    (warning,) = events_of(run, "warning")
    assert "cannot compile (No working C++ compiler found); the plain network" in warning["message"]
