"""The time that a run has spent working: pauses between a stop and a resume are taken out.

Knows events by their time `t` alone, and that `machine` is the first word of every process.
"""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

from stentor.ui.chart_table import as_finite

# Steps that a pace is taken from: few enough to follow a change of the machine.
PACE_STEPS = 200
FEWEST_STEPS = 2


class RunClock:
    """Seconds of work since the run began, and the pace of its present process in this stage."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._base = 0.0  # seconds of work before the present process
        self._since: float | None = None  # when that began, on the clock of the events
        self._now: float | None = None
        self._step: tuple[float, float] | None = None  # the newest: its t, its tokens
        self._paces: deque[float] = deque(maxlen=PACE_STEPS)  # seconds per token of a step

    def tick(self, event: Mapping[str, Any]) -> None:
        """Take note of the time of an event."""
        now = as_finite(event.get("t"))
        if now is None:
            return
        if event.get("kind") == "machine":
            self._base, self._since = self.seconds, now
            self.forget_pace()
        elif self._since is None:
            self._since = now
        self._now = now
        # A clock that was set back makes no time: the line must not go back.
        self.seconds = max(self.seconds, self._base + now - self._since)

    def step(self, tokens: float) -> None:
        """Take note of a training step that ended with this event."""
        if self._now is None:
            return
        if self._step is not None:
            seconds, num_tokens = self._now - self._step[0], tokens - self._step[1]
            if seconds > 0 and num_tokens > 0:
                self._paces.append(seconds / num_tokens)
        self._step = (self._now, tokens)

    def go_back(self, seconds: float) -> None:
        """Go on from an earlier moment: the work after it is repeated."""
        self._base = self.seconds = min(seconds, self.seconds)
        self._since = self._now
        self.forget_pace()

    def forget_pace(self) -> None:
        """Begin anew: another process or another stage has another pace."""
        self._step = None
        self._paces.clear()

    def seconds_per_token(self) -> float | None:
        """Return the median of the newest steps; None until there are a few.

        The first step is left out, which may compile; a median is not moved by a checkpoint or by
        a computer that slept.
        """
        return median(self._paces) if len(self._paces) >= FEWEST_STEPS else None
