"""Raises and clears the alarms of a run: an event, a line in the log, a message to a webhook.

It sees the recorder's events in whichever thread they happen, and has a thread of its own: for the
silence of a training thread that hangs, and to tell, so that nothing here ever holds training up.
What was open when a run ended is known from its events: every judge sees those first.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stentor.notify import Message, Notifier
from stentor.runs import read_events
from training.alarms.finding import Event, Finding, Judge, number, stage_of
from training.alarms.loss import NotFinite, Plateau, Spike
from training.alarms.machine import DeadWorker, DiskLow, HotGpu, ThrottledGpu
from training.alarms.place import PREPARATION, place_of
from training.alarms.speed import Slow, Stall
from training.disk import DiskError
from training.recipe import Recipe
from training.recorder import Recorder
from training.settings import PretrainSettings

TICK_SECONDS = 0.5
# That the end of a run waits for the last lines of the watch, on a disk that does not answer.
CLOSING_SECONDS = 5.0
RAISED, CLEARED = "raised", "cleared"


@dataclass(frozen=True)
class _News:
    """One change of one alarm, with the place in training at which it was seen."""

    alarm: str
    finding: Finding
    place: Mapping[str, Any]
    is_for_webhook: bool = True


class AlarmWatch:
    """The alarms of one session of a run; a context manager around its work, in its thread."""

    def __init__(
        self,
        recorder: Recorder,
        recipe: Recipe,
        notifier: Notifier,
        *,
        clock: Callable[[], float] = time.monotonic,
        tick: float = TICK_SECONDS,
    ) -> None:
        self._recorder, self._notifier, self._tick = recorder, notifier, tick
        self._stall = Stall(recipe.alarms, clock)
        self._dead_worker = DeadWorker()
        self._judges = (*_other_judges(recipe), self._stall, self._dead_worker)
        self._open: set[str] = set()
        self._place: dict[str, Any] = {"stage": None, "step": 0, "tokens": 0}
        self._lock = threading.Lock()  # of all above; never held while something is told
        self._news: queue.Queue[_News | None] = queue.Queue()
        self._watched = threading.get_ident()
        self._is_broken = False
        self._thread = threading.Thread(target=self._watch, name="stentor-alarms", daemon=True)

    def __enter__(self) -> Self:
        self._safely(self._remember_all)
        self._watched = threading.get_ident()
        self._recorder.observer = self.see
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._recorder.observer = None
        self._safely(self._end)
        self._news.put(None)
        self._thread.join(CLOSING_SECONDS)

    def see(self, kind: str, values: Mapping[str, Any]) -> None:
        """Judge one event; called by the recorder in any thread, and quick."""
        if kind != "alarm":
            self._safely(lambda: self._judge({**values, "kind": kind}))

    def lose_worker(self, num_workers: int, error: BaseException) -> None:
        """Raise the alarm that another process is gone, for an error of a meeting."""
        finding = self._dead_worker.lost(num_workers, error)
        self._safely(lambda: self._decide(self._dead_worker.name, finding))

    def _safely(self, work: Callable[[], None]) -> None:
        """Do some work under the lock; a mistake in it ends the watch, and never the training."""
        if self._is_broken:
            return
        try:
            with self._lock:
                work()
        except Exception as error:  # noqa: BLE001 - watching must not end what is watched
            self._is_broken = True
            self._recorder.say(
                f"Warning: the alarms are off after a mistake of their own: {error!r}"
            )

    def _remember_all(self) -> None:
        for event in read_events(self._recorder.run):
            self._remember(event)
        self._stall.begin()

    def _end(self) -> None:
        """Clear what means nothing without a process; how the run ended is another message."""
        over = Finding(False, "The run has ended; nobody looks at this any more.")
        for judge in self._judges:
            if judge.ends_with_run:
                self._decide(judge.name, over, is_for_webhook=False)

    def _remember(self, event: Event) -> None:
        """Take an event of an earlier session into account: what it raised is open or was cleared.

        What judges find in it is not told: it was, or the process was killed before it could, and
        then the next event shows whether it is still so.
        """
        if event["kind"] == "alarm":
            name = str(event.get("alarm"))
            known = {judge.name for judge in self._judges}
            if event.get("state") == RAISED and name in known:
                self._open.add(name)
            else:
                self._open.discard(name)
            return
        self._note_place(event)
        for judge in self._judges:
            judge.see(event)

    def _judge(self, event: Event) -> None:
        self._note_place(event)
        for judge in self._judges:
            finding = judge.see(event)
            if finding is not None:
                self._decide(judge.name, finding)

    def _note_place(self, event: Event) -> None:
        if event["kind"] not in ("stage_started", "metrics"):
            return
        self._place = {
            "stage": stage_of(event) or None,
            "step": int(number(event, "step") or 0),
            "tokens": int(number(event, "tokens") or 0),
        }

    def _decide(self, name: str, finding: Finding, *, is_for_webhook: bool = True) -> None:
        """Pass on what changes an alarm; the same again is no news."""
        if finding.is_wrong == (name in self._open):
            return
        if finding.is_wrong:
            self._open.add(name)
        else:
            self._open.discard(name)
        self._news.put(_News(name, finding, self._place, is_for_webhook))

    def _watch(self) -> None:
        """Tell what is new, and look for silence in between, until the end."""
        while True:
            try:
                news = self._news.get(timeout=self._tick)
            except queue.Empty:
                self._safely(self._look)
                continue
            if news is None:
                return
            self._tell(news)

    def _look(self) -> None:
        place = place_of(self._watched)
        finding = self._stall.look(place)
        if finding is None or self._stall.name in self._open:
            return
        limit = self._stall.limit(place)
        if place.work == PREPARATION and _has_written(self._recorder.run.data_folder, limit):
            self._stall.sign()
        else:
            self._decide(self._stall.name, finding)

    def _tell(self, news: _News) -> None:
        finding = news.finding
        state = RAISED if finding.is_wrong else CLEARED
        values = {
            "alarm": news.alarm,
            "state": state,
            "message": finding.message,
            **news.place,
            "value": finding.value,
            "limit": finding.limit,
        }
        with suppress(DiskError):  # a full disk is met by the thread that trains; here it is told
            self._recorder.event("alarm", **values)
        word = "Alarm" if finding.is_wrong else "Alarm over"
        self._recorder.say(f"{word} ({news.alarm}): {finding.message}")
        if news.is_for_webhook:
            told = {name: value for name, value in values.items() if name != "tokens"}
            self._notifier.tell(Message(run=self._recorder.run.id, **told))


def _other_judges(recipe: Recipe) -> tuple[Judge, ...]:
    """Return what judges by events alone."""
    settings, devices = recipe.alarms, recipe.device_numbers()
    stages = {s.name: s.settings for s in recipe.stages if isinstance(s.settings, PretrainSettings)}
    return (
        NotFinite(),
        Spike(settings),
        Plateau(settings, stages),
        Slow(settings),
        HotGpu(settings, devices),
        ThrottledGpu(devices),
        DiskLow(settings),
    )


def _has_written(folder: Path, seconds: float) -> bool:
    """Tell whether a file below a folder was written in the last seconds."""
    since = time.time() - seconds
    for path in folder.rglob("*"):
        with suppress(OSError):  # renamed or deleted in this moment
            if path.stat().st_mtime > since:
                return True
    return False
