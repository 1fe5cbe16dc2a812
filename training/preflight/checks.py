"""All that can be known of a run before it starts: every problem at once, and what it will take."""

import tempfile
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from stentor.errors import OptionError
from stentor.gpus import read_gpus
from stentor.jobs import training_refusal
from training.hardware import machine_to_json
from training.preflight.devices import (
    busy_problems,
    chosen_gpus,
    device_problems,
    num_workers,
    share_problems,
)
from training.preflight.disk_use import (
    CheckpointSizes,
    StageDisk,
    predict_checkpoint,
    run_disk,
    stage_disk,
)
from training.preflight.rates import rate_problems
from training.preflight.report import (
    ERROR,
    RECIPE,
    Problem,
    Report,
    StageFigures,
    Window,
    problem_of,
    sorted_problems,
)
from training.preflight.room import (
    StageMemory,
    disk_problems,
    memory_problems,
    output_problems,
    stage_memory,
)
from training.preflight.stages import PlannedStage, plan_stages, planning_context
from training.preflight.text import TextLook, look_at_text, unreadable
from training.recipe import Recipe
from training.runner import check_machine
from training.settings import PretrainSettings

Say = Callable[[str], None]


@dataclass(frozen=True)
class Preflight:
    """The report, and what an estimate goes on with: of each stage in `planned` its sizes."""

    report: Report
    planned: tuple[PlannedStage, ...]
    sizes: tuple[CheckpointSizes, ...]
    num_workers: int


def preflight(recipe: Recipe, say: Say) -> Preflight:
    """Return everything that is wrong with a run of `recipe` here, and what it will take.

    `recipe`: without the stages that are skipped. `say` hears what is looked at. Nothing is
    written but temporary files.
    """
    say("Looking at the machine")
    there = read_gpus()
    gpus = chosen_gpus(recipe, there)
    workers, found = num_workers(recipe)
    problems = [*device_problems(recipe, there)]
    if not any(problem.level == ERROR for problem in problems):  # the same in other words
        problems += found
    problems += [*_refusals(recipe), *busy_problems(recipe)]
    problems += [*share_problems(recipe, workers), *output_problems()]
    windows: list[Window] = []
    figures: list[StageFigures] = []
    with tempfile.TemporaryDirectory(prefix="stentor-check-") as folder:
        say("Looking for the text")
        lost = unreadable(recipe)
        unread = {problem.stage for problem in lost}
        problems += lost
        planned, found = plan_stages(recipe, unread, Path(folder))
        problems += found
        sizes = tuple(_sizes(recipe, stage) for stage in planned)
        memories = [stage_memory(stage, workers, gpus) for stage in planned]
        looks = _look_at_texts(planned, unread, recipe, Path(folder), say)
        for stage, size, memory in zip(planned, sizes, memories, strict=True):
            problems += rate_problems(stage)
            if memory:
                problems += memory_problems(stage.stage.name, memory)
            look = looks.get(stage.stage.name, TextLook())
            windows += look.windows
            problems += look.problems
            figures.append(_figures(stage, size, look.data_bytes, memory))
    problems += disk_problems(disk_of(planned, sizes, figures).peak)
    machine = {**machine_to_json(), "num_processes": workers, "gpus": [g.name for g in gpus]}
    report = Report(sorted_problems(problems), tuple(windows), tuple(figures), machine=machine)
    return Preflight(report, tuple(planned), sizes, workers)


def disk_of(
    planned: Sequence[PlannedStage],
    sizes: Sequence[CheckpointSizes],
    figures: Sequence[StageFigures],
) -> StageDisk:
    """Return the disk of the whole run."""
    disks = []
    for stage, size, values in zip(planned, sizes, figures, strict=True):
        settings = stage.stage.settings
        disks.append(
            stage_disk(settings, size, values.data_bytes)
            if isinstance(settings, PretrainSettings)
            else StageDisk(size.final, size.final)
        )
    return run_disk(disks)


def _refusals(recipe: Recipe) -> list[Problem]:
    """Return why the trainer would refuse the recipe on this machine."""
    problems = []
    refusal = training_refusal()
    if refusal:
        problems.append(Problem(None, ERROR, RECIPE, refusal))
    try:
        check_machine(recipe)
    except OptionError as error:
        problems.append(problem_of(error, RECIPE))
    return problems


def _look_at_texts(
    planned: Sequence[PlannedStage], unread: Set[str | None], recipe: Recipe, folder: Path, say: Say
) -> dict[str, TextLook]:
    """Return what was seen of each stage's text, where all that it reads can be read."""
    looks = {}
    for stage in planned:
        name, settings = stage.stage.name, stage.stage.settings
        if isinstance(settings, PretrainSettings):
            replayed = {source.name for source in settings.sources if source.kind == "replay"}
            if not unread & {name, *replayed}:
                say(f"Making windows of {name}")
                looks[name] = look_at_text(recipe, stage, folder / f"data-{name}")
    return looks


def _sizes(recipe: Recipe, planned: PlannedStage) -> CheckpointSizes:
    settings = planned.stage.settings
    # Stages that train nothing keep no moments, of whichever optimizer.
    optimizer = settings.optimizer if isinstance(settings, PretrainSettings) else "adamw"
    keeps = planning_context(recipe).gives_its_moments_on(planned.stage)
    return predict_checkpoint(
        planned.shape, planned.tokenizer_bytes, optimizer, keeps_moments=keeps
    )


def _figures(
    planned: PlannedStage, sizes: CheckpointSizes, data_bytes: int, memory: StageMemory | None
) -> StageFigures:
    """Return what is known of a stage before anything is measured."""
    stage = planned.stage
    figures = StageFigures(stage.name, 0, 0, sizes.final, data_bytes)
    if not isinstance(stage.settings, PretrainSettings) or memory is None:
        return figures
    return replace(
        figures,
        tokens=stage.settings.total_tokens(),
        steps=stage.settings.total_steps(),
        checkpoint_bytes=sizes.to_resume,
        memory_predicted=memory.predicted,
        memory_limit=memory.limit,
    )
