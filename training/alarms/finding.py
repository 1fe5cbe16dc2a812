"""What a judge of one alarm finds in an event, and how events are read. Knows no alarm."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

# An event of the run: its kind under "kind", and its values; read from a log, any of any type.
Event = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Whether something is wrong now, in words; `value` beside the `limit` that it is judged by."""

    is_wrong: bool
    message: str
    value: float | None = None
    limit: float | None = None


class Judge(Protocol):
    """Decides on one alarm. It is the same whether it saw events as they happened or in a log.

    `see` returns None where an event changes nothing: what was wrong still is, and what was well.
    Steps that a resumed run repeats repeat their numbers.
    """

    @property
    def name(self) -> str:
        """Return the alarm's name."""

    @property
    def ends_with_run(self) -> bool:
        """Tell whether it is of the moment, and means nothing once the process has ended."""

    def see(self, event: Event) -> Finding | None:
        """Take one event into account."""


def number(event: Event, name: str) -> float | None:
    """Return a finite number of an event, None where there is none."""
    value = event.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def is_not_finite(event: Event, name: str) -> bool:
    """Tell whether a value of an event is NaN or infinite."""
    value = event.get(name)
    return isinstance(value, float) and not math.isfinite(value)


def stage_of(event: Event) -> str:
    """Return the stage that an event names, or nothing."""
    return str(event.get("stage") or "")


class StagePlace:
    """Which steps of which stage were seen: a stage begins anew, and repeats are passed over."""

    def __init__(self) -> None:
        self.stage = ""
        self.step = 0

    def begins(self, event: Event) -> bool:
        """Tell whether an event begins a stage: another one, or the same from its start."""
        if event["kind"] not in ("stage_started", "metrics"):
            return False
        is_start = event["kind"] == "stage_started" and not number(event, "step")
        if stage_of(event) == self.stage and not is_start:
            return False
        self.stage, self.step = stage_of(event), 0
        return True

    def is_new(self, event: Event) -> bool:
        """Tell whether an event is a step that was not seen before."""
        step = number(event, "step")
        if event["kind"] != "metrics" or step is None or step <= self.step:
            return False
        self.step = int(step)
        return True
