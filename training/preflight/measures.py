"""What the events of a rehearsal say: seconds of each kind of work, peak memory, sizes on disk."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from stentor.runs import Run
from training.checkpoint import checkpoint_name
from training.preflight.disk_use import size_of
from training.recipe import Stage

# The first steps warm caches up, and compile where that is asked for.
WARMING_STEPS = 3
MIN_STEPS = 2  # to be measured after those
WORK = ("stage_started", "data", "metrics", "validation", "sample", "checkpoint", "stage_finished")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class StageMeasures:
    """Times of one stage in seconds since the epoch, durations in seconds, sizes in bytes.

    `samples_seconds`: of all prompts at one checkpoint. `final_bytes` and `memory_bytes` are None
    where the stage did not come to its end, the figures of steps where too few were taken.
    """

    started: float
    ended: float
    num_steps: int = 0
    steps_started: float = 0.0
    step_seconds: float | None = None
    tokens_per_second: float | None = None
    setup_seconds: float = 0.0
    validation_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    samples_seconds: float = 0.0
    memory_bytes: int | None = None
    checkpoint_bytes: int | None = None
    final_bytes: int | None = None


@dataclass
class _Clock:
    """Durations of the work of one stage by its kind: from the end of what came before it."""

    durations: dict[str, list[float]] = field(default_factory=dict)

    def median(self, kind: str) -> float:
        found = self.durations.get(kind, [])
        return statistics.median(found) if found else 0.0

    def add(self, events: list[Event]) -> None:
        for before, event in pairwise(events):
            self.durations.setdefault(event["kind"], []).append(event["t"] - before["t"])


def measure_stage(run: Run, stage: Stage, events: Iterable[Event]) -> StageMeasures | None:
    """Return what was measured of a stage; None where it did not begin."""
    own = [event for event in events if event.get("stage") == stage.name]
    work = [event for event in own if event["kind"] in WORK and event.get("point") != "base"]
    started = [event for event in work if event["kind"] == "stage_started"]
    if not started:
        return None
    first, last = started[0]["t"], work[-1]["t"]
    steps = [event for event in work if event["kind"] == "metrics"]
    final_bytes = _size_of(run, stage.name, stage.total_steps())
    if not steps:
        return StageMeasures(first, last, final_bytes=final_bytes)
    clock = _Clock()
    clock.add([event for event in work if event["t"] >= _warm_at(steps)])
    measured = steps[WARMING_STEPS:]
    is_measured = len(measured) >= MIN_STEPS
    step_seconds = clock.median("metrics")
    validation = clock.median("validation")
    before_steps = steps[0]["t"] - first - step_seconds - validation
    warming = steps[WARMING_STEPS - 1]["t"] - steps[0]["t"] if is_measured else 0.0
    extra = warming - (WARMING_STEPS - 1) * step_seconds
    memory = [e["measured"] for e in own if e["kind"] == "memory" and e.get("measured")]
    samples = clock.durations.get("sample", [])
    num_saved = max(1, len(clock.durations.get("checkpoint", [])))
    return StageMeasures(
        started=first,
        ended=last,
        num_steps=len(steps),
        steps_started=steps[0]["t"],
        step_seconds=step_seconds if is_measured else None,
        tokens_per_second=_median_speed(measured) if is_measured else None,
        setup_seconds=max(0.0, before_steps) + max(0.0, extra),
        validation_seconds=validation,
        checkpoint_seconds=clock.median("checkpoint"),
        samples_seconds=sum(samples) / num_saved,
        memory_bytes=max(memory) if memory else None,
        checkpoint_bytes=_size_of(run, stage.name, _first_saved(own)),
        final_bytes=final_bytes,
    )


def _warm_at(steps: list[Event]) -> float:
    """Return when the steps began to count; in the far future where too few were taken."""
    return float(steps[WARMING_STEPS - 1]["t"]) if len(steps) >= WARMING_STEPS else math.inf


def _median_speed(steps: list[Event]) -> float:
    speeds = [float(event["tokens_per_second"]) for event in steps]
    return statistics.median(speed for speed in speeds if math.isfinite(speed))


def _first_saved(events: list[Event]) -> int:
    """Return the step of the first checkpoint of a stage; 0: there is none."""
    return next((int(event["step"]) for event in events if event["kind"] == "checkpoint"), 0)


def _size_of(run: Run, stage: str, step: int) -> int | None:
    folder = run.checkpoints_folder / checkpoint_name(stage, step)
    return size_of(folder) if folder.is_dir() else None
