"""A small copy of a recipe that does the same work for a few steps: what a rehearsal runs.

Shapes, micro batches and precision are the recipe's; of stages that do the same work the first
speaks for the others. Growth is done in full.
"""

from dataclasses import dataclass, replace

import torch

from training.alarm_settings import AlarmSettings
from training.flops import training_flops_per_token
from training.preflight.stages import PlannedStage
from training.recipe import Recipe, Stage, sources_of
from training.runner import locate_start
from training.settings import (
    WINDOW_TOKENS,
    CreateSettings,
    PretrainSettings,
    Source,
)

MAX_VALIDATION_WINDOWS = 8
MIN_STEPS = 5  # fewer tell nothing of a speed
MAX_TOKENIZER_CHARACTERS = 1_000_000
# Speed does not depend on it, and a few steps have no room for the recipe's own warm-up.
MAX_LEARNING_RATE = 1e-4
# The steps of a stage should take no longer than this at a speed that is rather too low: then they
# get fewer windows, but never less than one pass of every process.
STAGE_SECONDS = 150.0
ASSUMED_FLOPS = {"cpu": 4e10, "cuda": 2e13}


@dataclass(frozen=True)
class Shrunken:
    """`recipe` to run, and for every training stage of the whole one which of it is measured."""

    recipe: Recipe
    measured_by: dict[str, str]


def shrink(
    recipe: Recipe, planned: tuple[PlannedStage, ...], num_steps: int, num_workers: int
) -> Shrunken:
    """Return the recipe that a rehearsal of `num_steps` steps a stage runs.

    Raises:
        RunError: the start model is not on this machine.
    """
    stages: list[Stage] = []
    measured_by: dict[str, str] = {}
    by_work: dict[tuple[object, ...], str] = {}
    for plan in planned:
        settings = plan.stage.settings
        if isinstance(settings, PretrainSettings):
            work = _work_of(plan, settings)
            measured_by[plan.stage.name] = by_work.setdefault(work, plan.stage.name)
            if measured_by[plan.stage.name] != plan.stage.name:
                continue
            sources = sources_of(recipe, plan.stage)
            batch_size = _batch_size(plan, settings, num_steps, num_workers)
            count = min(num_steps, max(MIN_STEPS, settings.total_steps()))
            settings = _few_steps(settings, sources, batch_size, count)
        elif isinstance(settings, CreateSettings):
            characters = min(settings.max_characters, MAX_TOKENIZER_CHARACTERS)
            settings = replace(settings, max_characters=characters)
        stages.append(replace(plan.stage, settings=settings))
    start = locate_start(recipe)
    small = replace(
        recipe,
        name="rehearsal",
        start=None if start is None else str(start.resolve()),
        stages=tuple(stages),
        pair=(),  # the two stages may not be among those that are rehearsed
        alarms=AlarmSettings(),  # nobody is to be called
    )
    return Shrunken(small, measured_by)


def _work_of(plan: PlannedStage, settings: PretrainSettings) -> tuple[object, ...]:
    """Return what decides how long a step takes and how much memory."""
    return (
        plan.shape,
        settings.batch_size,
        settings.micro_batch_size,
        settings.precision,
        settings.gradient_checkpointing,
        settings.torch_compile,
    )


def _batch_size(
    plan: PlannedStage, settings: PretrainSettings, num_steps: int, num_workers: int
) -> int:
    """Return the windows of a step: the recipe's, unless that would take too long."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = num_steps * WINDOW_TOKENS * training_flops_per_token(plan.shape, WINDOW_TOKENS)
    affordable = int(STAGE_SECONDS * ASSUMED_FLOPS[device] * num_workers / work)
    one_pass = settings.micro_batch_size * num_workers
    return min(settings.batch_size, max(one_pass, affordable))


def _few_steps(
    settings: PretrainSettings, sources: tuple[Source, ...], batch_size: int, num_steps: int
) -> PretrainSettings:
    """Return a stage that validates and saves once on its way and once at its end."""
    return replace(
        settings,
        sources=sources,
        budget="steps",
        num_steps=num_steps,
        batch_size=batch_size,
        learning_rate=min(settings.learning_rate, MAX_LEARNING_RATE),
        carry_optimizer=False,
        branch_fraction=1.0,
        max_epochs=1e6,  # how often text is read has been looked at before
        validation_windows=min(settings.validation_windows, MAX_VALIDATION_WINDOWS),
        validate_every=max(1, num_steps // 2),
        checkpoint_every=max(1, num_steps // 2),
        keep_last=2,
        keep_best=False,
    )
