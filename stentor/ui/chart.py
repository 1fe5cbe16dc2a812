"""From the events of a run to what a page shows: curves over tokens, stages, newest numbers.

A Digest is fed with events in the order of the file and can always be built again from it. After a
kill and a resume the steps since the last checkpoint are repeated; the later ones replace the
earlier, so the line never goes back. NaN and infinity stay in the digest and become gaps (JSON
null) only on the way to a browser. Knows no Gradio and no HTML.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Points of one curve sent at once; more cannot be told apart on a screen.
MAX_POINTS = 1_500
SIGNIFICANT_DIGITS = 6
MAX_SAMPLES = 8
MAX_NOTICES = 20
# Curve -> (kind of event, its field)
CURVES: dict[str, tuple[str, str]] = {
    "loss": ("metrics", "loss"),
    "validation": ("validation", "loss"),
    "learning_rate": ("metrics", "learning_rate"),
    "gradient_norm": ("metrics", "gradient_norm"),
    "tokens_per_second": ("metrics", "tokens_per_second"),
}


class Point(NamedTuple):
    """One value of a curve; `tokens` is cumulative over the whole run."""

    tokens: float
    value: float
    stage: str
    step: int


@dataclass
class StageProgress:
    """What a run has said of one stage so far."""

    name: str
    first_tokens: float
    last_tokens: float
    step: int = 0
    total_steps: int = 0
    started: float = 0.0  # seconds since the epoch
    finished: float | None = None
    growth: Mapping[str, Any] | None = None


@dataclass
class Digest:
    """Everything that a page shows of a run's events."""

    curves: dict[str, list[Point]] = field(default_factory=lambda: {name: [] for name in CURVES})
    stages: dict[str, StageProgress] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    samples: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    notices: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))

    def feed(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events; unknown kinds and damaged records are passed over."""
        for event in events:
            kind = event.get("kind")
            if kind in ("metrics", "validation"):
                self._add_points(event)
            elif kind in ("stage_started", "stage_finished", "growth"):
                self._update_stage(event)
            elif kind == "system":
                self.system = event
            elif kind == "machine":
                self.machine = event
            elif kind == "sample":
                self.samples.append(event)
            elif kind in ("warning", "error", "resumed"):
                self.notices.append(event)

    def last(self, curve: str, stage: str | None = None) -> float | None:
        """Return the newest value of a curve, of one stage if given."""
        points = reversed(self.curves[curve])
        return next((p.value for p in points if stage in (None, p.stage)), None)

    def first(self, curve: str, stage: str) -> float | None:
        """Return a stage's first value of a curve."""
        return next((p.value for p in self.curves[curve] if p.stage == stage), None)

    def not_finite(self) -> list[tuple[str, int, Point]]:
        """Return for each curve with NaN or infinity: its name, how many, and the first."""
        found = []
        for name, points in self.curves.items():
            bad = [point for point in points if not math.isfinite(point.value)]
            if bad:
                found.append((name, len(bad), bad[0]))
        return found

    def bands(self) -> list[dict[str, Any]]:
        """Return the stretch of tokens of each stage; a stage without tokens has no width."""
        return [
            {"name": stage.name, "start": stage.first_tokens, "end": stage.last_tokens}
            for stage in self.stages.values()
        ]

    def _add_points(self, event: Mapping[str, Any]) -> None:
        tokens, step, stage = as_number(event.get("tokens")), event.get("step"), event.get("stage")
        if tokens is None or not isinstance(step, int) or not isinstance(stage, str):
            return
        if not math.isfinite(tokens):
            return
        is_metrics = event["kind"] == "metrics"
        if is_metrics:
            self._forget_after(tokens)
            self.metrics = event
        for name, (kind, field_name) in CURVES.items():
            value = as_number(event.get(field_name)) if event["kind"] == kind else None
            if value is None:
                continue
            points = self.curves[name]
            while points and (points[-1].tokens > tokens or points[-1][2:] == (stage, step)):
                points.pop()
            points.append(Point(tokens, value, stage, step))
        progress = self.stages.get(stage)
        if progress and is_metrics:
            progress.last_tokens, progress.step = tokens, step

    def _update_stage(self, event: Mapping[str, Any]) -> None:
        name = event.get("stage")
        if not isinstance(name, str):
            return
        tokens = as_number(event.get("tokens")) or 0.0
        tokens = tokens if math.isfinite(tokens) else 0.0
        if event["kind"] == "stage_started":
            self._forget_after(tokens)
            known = self.stages.get(name)
            self.stages[name] = StageProgress(
                name=name,
                first_tokens=known.first_tokens if known else tokens,
                last_tokens=tokens,
                step=_whole(event.get("step")),
                total_steps=_whole(event.get("total_steps")),
                started=as_number(event.get("t")) or 0.0,
                growth=known.growth if known else None,
            )
        elif name in self.stages and event["kind"] == "growth":
            self.stages[name].growth = event
        elif name in self.stages:
            stage = self.stages[name]
            stage.finished = as_number(event.get("t"))
            stage.last_tokens = max(stage.last_tokens, tokens)
            stage.step = max(stage.step, stage.total_steps)

    def _forget_after(self, tokens: float) -> None:
        """Drop what a resumed run is about to repeat."""
        for points in self.curves.values():
            while points and points[-1].tokens > tokens:
                points.pop()


def curves_to_json(curves: Mapping[str, Sequence[Point]]) -> dict[str, dict[str, list[Any]]]:
    """Return plain lists for a browser: x = tokens, y = value or null; at most MAX_POINTS each."""
    return {name: _curve_to_json(thin(points)) for name, points in curves.items()}


def _curve_to_json(points: Sequence[Point]) -> dict[str, list[Any]]:
    return {
        "x": [int(point.tokens) for point in points],
        "y": [finite_or_none(point.value) for point in points],
    }


def thin(points: Sequence[Point], limit: int = MAX_POINTS) -> Sequence[Point]:
    """Return at most `limit` points that keep the lowest and the highest of every stretch.

    A value that is not finite stays too: a gap must not be smoothed away.
    """
    if len(points) <= limit:
        return points
    size = math.ceil(2 * len(points) / (limit - 2))
    kept: list[Point] = [points[0]]
    for start in range(1, len(points) - 1, size):
        stretch = range(start, min(start + size, len(points) - 1))
        bad = next((i for i in stretch if not math.isfinite(points[i].value)), None)
        low = min(stretch, key=lambda i: _sort_key(points[i].value))
        high = max(stretch, key=lambda i: _sort_key(points[i].value))
        chosen = {low, high} if bad is None else {bad, high}
        kept.extend(points[i] for i in sorted(chosen))
    kept.append(points[-1])
    return kept


def _sort_key(value: float) -> float:
    return value if math.isfinite(value) else -math.inf


def finite_or_none(value: float) -> float | None:
    """Return the value with six digits, or None: JSON has no NaN."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None


def as_number(value: object) -> float | None:
    """Return a float (NaN included) for a JSON number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _whole(value: object) -> int:
    """Return a whole number, 0 for anything else."""
    return value if isinstance(value, int) else 0
