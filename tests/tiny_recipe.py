"""A recipe small enough to run as a real process in a test, and readers of what a run leaves."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stentor.jobs import start, wait_until_ended
from stentor.runs import Run, create_run, current_status, read_events, tail_events, tail_log
from training.recipe import Recipe, Stage, recipe_to_json
from training.settings import ExpandSettings, PretrainSettings, Source

NUM_STEPS = 12
CHECKPOINT_EVERY = 4
# Far beyond what a child needs on a busy machine; only a hanging child is ended by it.
PATIENCE_SECONDS = 240.0
GROWN = ExpandSettings(hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4)
TRAINING = PretrainSettings(
    num_steps=NUM_STEPS,
    batch_size=4,
    micro_batch_size=2,
    learning_rate=2e-3,
    validation_windows=2,
    validate_every=6,
    checkpoint_every=CHECKPOINT_EVERY,
)


def tiny_recipe(start_folder: Path, sources: tuple[Source, ...] = (Source(),)) -> Recipe:
    """Return: expand 32 to 64 channels, then two stages of 12 steps; the first reads `sources`."""
    general = replace(TRAINING, sources=sources)
    story = replace(TRAINING, sources=(Source(name="narrative"),))
    return Recipe(
        name="tiny",
        title="Tiny",
        purpose="A run that ends in seconds.",
        start=str(start_folder),
        stages=(
            Stage("expand", "expand", "Grow", GROWN),
            Stage("general", "pretrain", "General", general),
            Stage("story", "pretrain", "Story", story),
        ),
        seed=5,
        num_threads=1,
        num_processes=1,  # whatever GPUs there are: some tests run it in their own process
    )


def create(recipe: Recipe) -> Run:
    """Make a run folder for `recipe`."""
    return create_run(recipe_to_json(recipe), recipe.name)


def run_to_its_end(run: Run, verb: str = "run") -> str:
    """Start the run's process, wait for its end and return the state."""
    start(run, verb)
    assert wait_until_ended(run, PATIENCE_SECONDS), tail_log(run)
    return current_status(run).state


def wait_for_step(run: Run, stage: str, step: int, offset: int = 0) -> None:
    """Wait until the run has written this step after byte `offset` of its events."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (stage, step) not in _steps(tail_events(run, offset)[0]):
        assert time.monotonic() < deadline, tail_log(run)
        time.sleep(0.005)


def _steps(events: list[dict[str, Any]]) -> set[tuple[str, int]]:
    return {(event["stage"], event["step"]) for event in events if event["kind"] == "metrics"}


def metrics(run: Run) -> dict[tuple[str, int], tuple[float, float, float]]:
    """Return loss, gradient norm and rate by (stage, step); the last value wins."""
    names = ("loss", "gradient_norm", "learning_rate")
    return {
        (event["stage"], event["step"]): (event[names[0]], event[names[1]], event[names[2]])
        for event in read_events(run)
        if event["kind"] == "metrics"
    }


def losses(run: Run, kind: str) -> dict[tuple[str, int], float]:
    """Return the losses of one kind of event by (stage, step); the last value wins."""
    return {
        (event["stage"], event["step"]): event["loss"]
        for event in read_events(run)
        if event["kind"] == kind
    }


def final_weights(run: Run) -> dict[str, torch.Tensor]:
    """Return the tensors of the last stage's final checkpoint."""
    weights: dict[str, torch.Tensor] = load_file(
        run.checkpoints_folder / f"story-{NUM_STEPS:06d}" / "model.safetensors"
    )
    return weights
