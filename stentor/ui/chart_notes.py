"""What a run tells beside its curves: samples, warnings, alarms, and where it was resumed.

Knows no curve and no stage.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stentor.ui.chart_table import Place, as_finite

MAX_SAMPLES = 4_000
MAX_TEXT = 4_000  # characters of a sample or a message
MAX_WHOLE = 2**53  # beyond, a float is not exact
MAX_NOTICES = 20
MAX_ALARMS = 200
MAX_RESUMES = 200
SAMPLE_KEY = ("stage", "step", "point", "number", "prompt")


@dataclass(frozen=True)
class Alarm:
    """One alarm; `is_open` until the run says that it is over."""

    name: str
    message: str
    place: Place
    step: int
    is_open: bool = True

    @property
    def tokens(self) -> float:
        """Return where on the run it was raised."""
        return self.place.tokens


@dataclass
class RunNotes:
    """The notes of a run in the order of their making; samples beyond MAX_SAMPLES are left out."""

    samples: list[Mapping[str, Any]] = field(default_factory=list)
    notices: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_NOTICES))
    alarms: deque[Alarm] = field(default_factory=lambda: deque(maxlen=MAX_ALARMS))
    resumes: deque[Place] = field(default_factory=lambda: deque(maxlen=MAX_RESUMES))
    _sample_places: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def open_alarms(self) -> dict[str, Alarm]:
        """Return the alarms that are not over, by name, oldest first."""
        return {alarm.name: alarm for alarm in self.alarms if alarm.is_open}

    def add_sample(self, event: Mapping[str, Any], here: Place) -> None:
        """Keep a sample with its place; one of the same position and prompt is replaced."""
        key = _key_of(event)
        tokens = as_finite(event.get("tokens"))
        if event.get("point") == "base":
            here = Place(0.0, 0.0, 0.0)
        place = here if tokens is None else here._replace(tokens=tokens)
        sample = {**event, "text": str(event.get("text", ""))[:MAX_TEXT], "place": place}
        if key in self._sample_places:
            self.samples[self._sample_places[key]] = sample
        elif len(self.samples) < MAX_SAMPLES:
            self._sample_places[key] = len(self.samples)
            self.samples.append(sample)

    def add_alarm(self, event: Mapping[str, Any], here: Place) -> None:
        """Raise an alarm, or note that it is over; one that is raised again stays where it was."""
        name, message = str(event.get("alarm"))[:MAX_TEXT], str(event.get("message", ""))[:MAX_TEXT]
        before = self.open_alarms.get(name)
        is_raised = event.get("state") == "raised"
        if before:
            self.alarms[self.alarms.index(before)] = replace(
                before, message=message if is_raised else before.message, is_open=is_raised
            )
        elif is_raised:
            tokens = as_finite(event.get("tokens"))
            place = here if tokens is None else here._replace(tokens=tokens)
            self.alarms.append(Alarm(name, message, place, whole(event.get("step"))))

    def add_notice(self, event: Mapping[str, Any], here: Place) -> None:
        """Keep a warning, an error or a resume."""
        self.notices.append({**event, "message": str(event.get("message", ""))[:MAX_TEXT]})
        if event["kind"] == "resumed":
            self.resumes.append(here)

    def forget_notes_after(self, place: Place) -> None:
        """Forget what lies beyond a place that the run goes on from; open alarms move there."""
        kept = [sample for sample in self.samples if sample["place"].tokens <= place.tokens]
        self.samples[:] = kept
        self._sample_places = {_key_of(sample): number for number, sample in enumerate(kept)}
        alarms = [
            replace(alarm, place=min(alarm.place, place)) if alarm.is_open else alarm
            for alarm in self.alarms
        ]
        self.alarms = deque((a for a in alarms if a.tokens <= place.tokens), maxlen=MAX_ALARMS)
        resumes = (resume for resume in self.resumes if resume.tokens <= place.tokens)
        self.resumes = deque(resumes, maxlen=MAX_RESUMES)


def _key_of(sample: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(sample.get(name)) for name in SAMPLE_KEY)


def whole(value: object) -> int:
    """Return a whole number that a float can hold, 0 for anything else."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if abs(value) < MAX_WHOLE else 0
