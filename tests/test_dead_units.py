"""Units that died are told of; those that a growth has just made, and nothing reads, are not."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import GROWN, TRAINING, create

from stentor.loading import open_checkpoint_folder, read_weights
from stentor.models import MODELS
from stentor.runs import read_events
from training.checkpoint import build_model, end_token_of, save_checkpoint
from training.dead_units import DOWN, GATE, UP, dead_units, warning_of
from training.expansion import Weights
from training.recipe import Recipe, Stage
from training.runner import execute
from training.stages.expand import grow

pytestmark = pytest.mark.usefixtures("old_signals")

LAYER = "model.layers.0."


def quieter(weights: Weights, rows: float = 1.0, column: float = 1.0) -> Weights:
    """Return the weights with a first half of the first layer's units that is quieter."""
    half = slice(weights[LAYER + GATE].shape[0] // 2)
    changed = {name: weights[LAYER + name].clone() for name in (GATE, UP, DOWN)}
    for name in (GATE, UP):
        changed[name][half] *= rows
    changed[DOWN][:, half] *= column
    return {**weights, **{LAYER + name: tensor for name, tensor in changed.items()}}


def test_a_unit_is_dead_where_it_says_nothing_and_nothing_reads_it(
    tiny_model_folder: Path,
) -> None:
    weights = read_weights(open_checkpoint_folder(tiny_model_folder))
    per_layer = weights[LAYER + GATE].shape[0]
    num_units = sum(name.endswith(GATE) for name in weights) * per_layer
    assert dead_units(weights) == (0, num_units) and warning_of(weights) is None
    assert dead_units(quieter(weights, rows=0.02))[0] == 0, "what reads it will make it louder"
    assert dead_units(quieter(weights, column=0.01))[0] == 0, "it is heard as soon as it is read"
    dead = quieter(weights, rows=0.02, column=0.01)
    assert dead_units(dead) == (per_layer // 2, num_units)
    assert f"{per_layer // 2} of {num_units} SwiGLU units are dead" in str(warning_of(dead))
    assert dead_units({}) == (0, 0) and warning_of({}) is None


def test_units_that_an_exact_growth_has_just_made_are_not_dead(tiny_model_folder: Path) -> None:
    parent = open_checkpoint_folder(tiny_model_folder)
    grown, report = grow(parent, GROWN, seed=0)
    column = grown.state_dict()[LAYER + DOWN][:, -1]
    assert report.is_exact and not column.any(), "nothing reads the new units"
    assert warning_of(grown.state_dict()) is None


def test_the_demo_base_has_none() -> None:
    base = open_checkpoint_folder(MODELS["demo-base"].folder or Path())
    assert dead_units(read_weights(base))[0] == 0


def test_a_stage_tells_in_the_end_what_has_died(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Half of every SwiGLU of the demo pair died in training, and no figure of it told."""
    start = open_checkpoint_folder(tiny_model_folder)
    model = build_model(
        start.shape, quieter(read_weights(start), rows=0.02, column=0.01), end_token_of(start)
    )
    save_checkpoint(tmp_path / "dying", model, start.folder, {})
    settings = replace(TRAINING, num_steps=2, batch_size=2)
    for folder, is_told in ((tmp_path / "dying", True), (tiny_model_folder, False)):
        stage = Stage("general", "pretrain", "General", settings)
        recipe = Recipe("dying", "Dying", "A test.", str(folder), (stage,), num_threads=1)
        run = create(replace(recipe, num_processes=1))
        assert execute(run) == 0
        told = [event["message"] for event in read_events(run) if event["kind"] == "warning"]
        assert any("SwiGLU units are dead" in message for message in told) is is_told, told
