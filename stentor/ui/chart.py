"""From the events of a run to what a page shows: curves, stages, samples, alarms, newest numbers.

A Digest is fed with events in the order of the file and can always be built again from it. After a
kill and a resume the steps since the last checkpoint are repeated; the later ones replace the
earlier, so the line never goes back. NaN and infinity stay in the digest and become gaps (JSON
null) only on the way to a browser. Knows no Gradio and no HTML.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from stentor.ui.chart_clock import RunClock
from stentor.ui.chart_machine import list_gpus, load_values
from stentor.ui.chart_notes import MAX_WHOLE, RunNotes, whole
from stentor.ui.chart_table import Place, Point, Table, as_finite, as_number, finite_or_none

__all__ = ["Digest", "Point", "StageProgress", "as_number"]

# Points of one curve sent at once; more cannot be told apart on a screen.
MAX_POINTS = 1_500
SAMPLE_PREVIEW = 80  # characters of a sample beside its mark
MAX_NAME = 80  # characters of the name of a source
# Curve -> field of the event `metrics`.
TRAINING_CURVES = ("loss", "learning_rate", "gradient_norm", "tokens_per_second", "mfu")


@dataclass
class StageProgress:
    """What a run has said of one stage so far."""

    name: str
    title: str
    first: Place
    last: Place
    step: int = 0
    total_steps: int = 0
    started: float = 0.0  # seconds since the epoch
    finished: float | None = None
    growth: Mapping[str, Any] | None = None

    @property
    def first_tokens(self) -> float:
        """Return the tokens of the run before the stage."""
        return self.first.tokens

    @property
    def last_tokens(self) -> float:
        """Return the tokens of the run up to the newest step of the stage."""
        return self.last.tokens


@dataclass
class Digest(RunNotes):
    """Everything that a page shows of a run's events.

    `sequence` counts the events; a browser that has those up to `rewound` or less has points that
    are no longer true. `pinned` is the event after which marks() may have changed last.
    """

    sequence: int = 0
    rewound: int = 0
    pinned: int = 0
    stages: dict[str, StageProgress] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    clock: RunClock = field(default_factory=RunClock)
    training: Table = field(default_factory=Table)
    validation: Table = field(default_factory=Table)
    load: Table = field(default_factory=Table)

    def feed(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events; unknown kinds and damaged records are passed over."""
        for event in events:
            self.sequence += 1
            self.clock.tick(event)
            kind = event.get("kind")
            if kind == "metrics":
                self._add_metrics(event)
            elif kind == "validation":
                self._add_validation(event)
                self.pinned = self.sequence
            elif kind == "system":
                self._add_load(event)
            elif kind in ("stage_started", "stage_finished", "growth"):
                self._update_stage(event)
                self.pinned = self.sequence
            elif kind == "machine":
                self.machine = event
            elif kind == "sample":
                self.add_sample(event, self._here())
                self.pinned = self.sequence
            elif kind == "alarm":
                self.add_alarm(event, self._here())
            elif kind in ("warning", "error", "resumed"):
                self.add_notice(event, self._here())

    @property
    def tables(self) -> tuple[Table, Table, Table]:
        """Return the tables whose columns are the curves; no name is in two of them."""
        return (self.training, self.validation, self.load)

    def last(self, curve: str, stage: str | None = None) -> float | None:
        """Return the newest value of a curve, of one stage if given."""
        found = (table.last(curve, stage) for table in self.tables if curve in table.columns)
        return next((point.value for point in found if point), None)

    def first(self, curve: str, stage: str) -> float | None:
        """Return a stage's first value of a curve."""
        found = (table.first(curve, stage) for table in self.tables if curve in table.columns)
        return next((point.value for point in found if point), None)

    def loss_at(self, stage: str, step: int) -> float | None:
        """Return the held-out loss at a step of a stage, else the training loss, if there is one.

        A stage that grows the model says it of the grown one.
        """
        progress = self.stages.get(stage)
        if progress and progress.growth:
            return as_number(progress.growth.get("loss_after"))
        value = self.validation.at("validation", stage, step)
        return self.training.at("loss", stage, step) if value is None else value

    def not_finite(self) -> list[tuple[str, int, Point]]:
        """Return for each curve with NaN or infinity: its name, how many, and the first."""
        return [
            (name, *bad)
            for table in (self.training, self.validation)
            for name in table.columns
            if (bad := table.not_finite(name))
        ]

    def seconds_left(self, total_tokens: float) -> float | None:
        """Return the seconds until `total_tokens`, later stages included; None: not known yet.

        The pace is that of the present process in the present stage, so that it is right straight
        after a resume.
        """
        pace, place = self.clock.seconds_per_token(), self.training.last_place()
        if pace is None or place is None:
            return None
        return max(0.0, total_tokens - place.tokens) * pace

    def bands(self, axis: str) -> list[dict[str, Any]]:
        """Return the stretch of each stage; a stage without tokens has no width."""
        return [
            {
                "name": stage.name,
                "title": stage.title,
                "start": stage.first.on(axis),
                "end": stage.last.on(axis),
            }
            for stage in self.stages.values()
        ]

    def marks(self, axis: str) -> list[dict[str, Any]]:
        """Return a mark for each position that has samples, to be pinned on the loss curve."""
        marks: dict[str, dict[str, Any]] = {}
        for sample in self.samples:
            stage, step = str(sample.get("stage")), whole(sample.get("step"))
            is_base = sample.get("point") == "base"
            key = "base" if is_base else f"{stage}-{step}"
            progress = self.stages.get(stage)
            title = "Base model" if is_base else progress.title if progress else stage
            loss = None if is_base else self.loss_at(stage, step)
            mark = marks.setdefault(
                key,
                {
                    "key": key,
                    "x": sample["place"].on(axis),
                    "y": finite_or_none(loss),
                    "title": title,
                    "stage": stage,
                    "step": step,
                    "texts": [],
                },
            )
            mark["texts"].append(f"{sample.get('prompt', '')}{sample['text']}"[:SAMPLE_PREVIEW])
        return list(marks.values())

    def along(self, axis: str) -> dict[str, Any]:
        """Return what lies along the curves beside the marks: stages, resumes, GPUs, alarms."""
        return {
            "bands": self.bands(axis),
            "resumes": [place.on(axis) for place in self.resumes],
            "gpus": self.gpus(),
            "alarms": [
                {
                    "x": alarm.place.on(axis),
                    "alarm": alarm.name,
                    "message": alarm.message,
                    "state": "raised" if alarm.is_open else "cleared",
                }
                for alarm in self.alarms
            ],
        }

    def gpus(self) -> list[dict[str, Any]]:
        """Return number and name of every GPU that the run's machine has."""
        return list_gpus(self.system)

    # How events are taken in ----------------------------------------------------------------------

    def _here(self) -> Place:
        """Return the place of the newest step: where an event without a place of its own is."""
        place = self.training.last_place() or Place(0.0, 0.0, 0.0)
        return place._replace(time=self.clock.seconds)

    def _add_metrics(self, event: Mapping[str, Any]) -> None:
        where = self._where(event)
        if where is None:
            return
        tokens, stage, step, progress = where
        self._forget_after(tokens)
        steps = (progress.first.steps if progress else 0) + step
        place = Place(tokens, steps, self.clock.seconds)
        values = {}
        for name in TRAINING_CURVES:
            value = as_number(event.get(name))
            if value is not None:
                values[name] = value
        self.training.add(place, self.sequence, stage, step, values)
        self.metrics = event
        self.clock.step(tokens)
        if progress:
            progress.last, progress.step = place, step

    def _add_validation(self, event: Mapping[str, Any]) -> None:
        where, loss = self._where(event), as_number(event.get("loss"))
        if where is None or loss is None:
            return
        tokens, stage, step, progress = where
        values = {"validation": loss}
        parts = event.get("by_source")
        if isinstance(parts, Mapping) and len(parts) > 1:
            for name, value in parts.items():
                part = as_number(value)
                if part is not None:
                    values[f"validation:{str(name)[:MAX_NAME]}"] = part
        steps = (progress.first.steps if progress else 0) + step
        place = Place(tokens, steps, self.clock.seconds)
        self.validation.add(place, self.sequence, stage, step, values)

    def _add_load(self, event: Mapping[str, Any]) -> None:
        self.system = event
        self.load.append(self._here(), self.sequence, "", self.sequence, load_values(event))

    def _where(
        self, event: Mapping[str, Any]
    ) -> tuple[float, str, int, StageProgress | None] | None:
        """Return tokens, stage, step and progress that an event names; None: it is damaged."""
        tokens, step, stage = as_finite(event.get("tokens")), event.get("step"), event.get("stage")
        if tokens is None or type(step) is not int or not isinstance(stage, str):
            return None
        is_sound = 0 <= step < MAX_WHOLE and tokens >= 0
        return (tokens, stage, step, self.stages.get(stage)) if is_sound else None

    def _update_stage(self, event: Mapping[str, Any]) -> None:
        name = event.get("stage")
        if not isinstance(name, str):
            return
        tokens = as_finite(event.get("tokens")) or 0.0
        known = self.stages.get(name)
        if event["kind"] == "stage_started":
            self._forget_after(tokens)
            self.clock.forget_pace()
            here = self._here()._replace(tokens=tokens)
            known = self.stages.get(name)  # not the one that began beyond this place
            self.stages[name] = StageProgress(
                name=name,
                title=str(event.get("title") or name),
                first=known.first if known else here,
                last=here,
                step=whole(event.get("step")),
                total_steps=whole(event.get("total_steps")),
                started=as_finite(event.get("t")) or 0.0,
                growth=known.growth if known else None,
            )
        elif known and event["kind"] == "growth":
            known.growth = event
        elif known:
            known.finished = as_finite(event.get("t"))
            known.last = max(known.last, self._here()._replace(tokens=tokens))
            known.step = max(known.step, known.total_steps)

    def _forget_after(self, tokens: float) -> None:
        """Drop what a resumed run is about to repeat."""
        if not any([table.forget_after(tokens) for table in self.tables]):
            return
        self.rewound = self.pinned = self.sequence
        self.stages = {
            name: stage for name, stage in self.stages.items() if stage.first.tokens <= tokens
        }
        # Growing takes time and has no rows, so the stages say it, too.
        known = [table.last_place() for table in self.tables]
        known += [stage.first for stage in self.stages.values()]
        known += [stage.last for stage in self.stages.values() if stage.last.tokens <= tokens]
        self.clock.go_back(max((place.time for place in known if place), default=0.0))
        self.forget_notes_after(self._here()._replace(tokens=tokens))
