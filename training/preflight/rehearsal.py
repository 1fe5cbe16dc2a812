"""A rehearsal: the real trainer runs a small copy of the recipe in a folder of its own.

The trainer is a child with a home of its own, so that no list, no queue and no lock of the real
runs knows of it. Everything but the report is deleted afterwards.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from stentor.errors import INTERRUPTED, StentorError
from stentor.gpus import read_gpus
from stentor.home import assets_folder
from stentor.notify import WEBHOOK_VARIABLE
from stentor.rehearsals import work_folder
from stentor.runs import Run, current_status, read_events, tail_events, tail_log, write_json
from training.preflight.checks import Preflight
from training.preflight.devices import chosen_gpus
from training.preflight.estimate import estimate
from training.preflight.measures import measure_stage
from training.preflight.power import PowerMeter, RaplCounter
from training.preflight.report import (
    DISK,
    ERROR,
    MEMORY,
    RATE,
    RECIPE,
    WARNING,
    Problem,
    Report,
    problem_of,
    sorted_problems,
)
from training.preflight.show import duration
from training.preflight.shrink import Shrunken, shrink
from training.recipe import Recipe, recipe_to_json

POLL_SECONDS = 0.1
END_SECONDS = 20.0
LAST_BYTES = 1_500
# Errors that a few steps do not run into.
HARMLESS = (RATE, DISK)
TOLD = ("stage_started", "metrics", "validation", "checkpoint")
OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "Cannot allocate memory", "can't allocate memory")

Say = Callable[[str], None]


def rehearse(
    recipe: Recipe, preflight: Preflight, say: Say, *, num_steps: int, seconds: float
) -> Report:
    """Return the preflight's report with measured figures, or with why there are none.

    `recipe`: without skipped stages. `seconds`: when to stop measuring.
    """
    report = preflight.report
    errors = [p for p in report.problems if p.level == ERROR and p.what not in HARMLESS]
    if errors:
        say("There is nothing to rehearse before the errors are mended.")
        return report
    try:
        shrunken = shrink(recipe, preflight.planned, num_steps, preflight.num_workers)
        with work_folder() as folder:
            report = _measured(shrunken, preflight, folder, say, seconds)
    except StentorError as error:
        return _with_problems(report, problem_of(error, RECIPE))
    return replace(report, problems=sorted_problems(list(report.problems)))


def _with_problems(report: Report, *problems: Problem) -> Report:
    return replace(report, problems=sorted_problems([*report.problems, *problems]))


def _measured(
    shrunken: Shrunken, preflight: Preflight, home: Path, say: Say, seconds: float
) -> Report:
    """Run the small recipe below `home` and return what it means for the whole one."""
    run = Run(home / "runs" / "rehearsal")
    run.checkpoints_folder.mkdir(parents=True)
    write_json(run.recipe_file, recipe_to_json(shrunken.recipe))
    started = time.time()
    meter = PowerMeter(lambda: chosen_gpus(shrunken.recipe, read_gpus()), RaplCounter())
    with meter, _trainer(run, home) as child:
        is_in_time = _follow(run, child, shrunken, say, seconds)
    if current_status(run).state not in ("finished", "stopped"):
        return _with_problems(preflight.report, _failure(run))
    events = list(read_events(run))
    measures = {
        stage.name: found
        for stage in shrunken.recipe.stages
        if (found := measure_stage(run, stage, events))
    }
    first = next((e["t"] for e in events if e["kind"] == "stage_started"), started)
    report = estimate(preflight, shrunken, measures, meter.watts, meter.source(), first - started)
    shortened = [*_shortened(preflight, shrunken)]
    if not is_in_time:
        shortened.append(_stopped_early(report, seconds))
    return _with_problems(report, *shortened)


@contextmanager
def _trainer(run: Run, home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start the trainer, and leave none behind, whatever ends the block.

    It stays in this process's group: whoever ends the group ends both.
    """
    before = signal.signal(signal.SIGTERM, _leave)
    # Nobody wants to be told of the alarms and the end of a rehearsal.
    own = {"PYTHONUNBUFFERED": "1", WEBHOOK_VARIABLE: ""}
    with run.log_file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "training", "run", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=assets_folder().parent,
            env={**os.environ, **own, "STENTOR_HOME": str(home)},
        )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
        try:
            child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        signal.signal(signal.SIGTERM, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(INTERRUPTED)


@dataclass
class _Told:
    """Where the reader of the events is."""

    offset: int = 0


def _follow(
    run: Run, child: "subprocess.Popen[bytes]", shrunken: Shrunken, say: Say, seconds: float
) -> bool:
    """Say what the trainer does until it ends; return False where it was late and asked to stop."""
    deadline = time.monotonic() + seconds
    totals = {stage.name: stage.total_steps() for stage in shrunken.recipe.stages}
    told = _Told()
    is_in_time = True
    while child.poll() is None:
        time.sleep(POLL_SECONDS)
        _tell(run, told, totals, say)
        if is_in_time and time.monotonic() > deadline:
            say(f"Stopping after {duration(seconds)}")
            is_in_time = False
        if not is_in_time:
            run.stop_file.touch()  # again and again: a trainer that starts forgets what was asked
    _tell(run, told, totals, say)
    return is_in_time


def _tell(run: Run, told: _Told, totals: dict[str, int], say: Say) -> None:
    events, told.offset = tail_events(run, told.offset)
    for event in events:
        if event["kind"] in TOLD:
            say(_news(event, totals))


def _news(event: dict[str, Any], totals: dict[str, int]) -> str:
    stage = event["stage"]
    if event["kind"] == "metrics":
        speed = event["tokens_per_second"]
        return f"Rehearsing {stage}: step {event['step']} of {totals[stage]}, {speed:,.0f} tokens/s"
    words = {"stage_started": "begins", "validation": "validated", "checkpoint": "saved"}
    return f"Rehearsing {stage}: {words[event['kind']]}"


def _failure(run: Run) -> Problem:
    """Return why the trainer failed, with its last words."""
    status = current_status(run)
    words = tail_log(run, LAST_BYTES).strip()
    reason = status.error or "The trainer ended without a word."
    is_memory = any(word in f"{reason} {words}" for word in OUT_OF_MEMORY)
    last = words.splitlines()[-1] if words else ""
    said = f" Its last words: {last}" if last and reason not in last else ""
    return Problem(
        status.stage,
        ERROR,
        MEMORY if is_memory else RECIPE,
        f"The rehearsal failed: {reason}{said}",
        "A smaller micro_batch_size or gradient_checkpointing needs less memory."
        if is_memory
        else "",
    )


def _shortened(preflight: Preflight, shrunken: Shrunken) -> Iterator[Problem]:
    """Yield which stages took steps of fewer windows than their own."""
    whole = {planned.stage.name: planned.stage for planned in preflight.planned}
    for stage in shrunken.recipe.stages:
        own = whole[stage.name].settings
        few: Any = stage.settings
        if stage.total_steps() and few.batch_size < getattr(own, "batch_size", 0):
            yield Problem(
                stage.name,
                WARNING,
                RECIPE,
                f"Rehearsed with {few.batch_size} windows a step instead of the recipe's "
                f"{getattr(own, 'batch_size', 0)}, to end in time; the speed is that of these.",
            )


def _stopped_early(report: Report, seconds: float) -> Problem:
    missing = [values.name for values in report.stages if values.seconds is None]
    message = f"The rehearsal was stopped after {duration(seconds)}"
    if missing:
        message += f", before it could measure {', '.join(missing)}"
    return Problem(None, WARNING, RECIPE, f"{message}.", "Allow it more time with --minutes.")
