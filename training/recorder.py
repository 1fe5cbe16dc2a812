"""The trainer's side of the run folder: events, status, heartbeat, and what was asked for.

What it writes may come from several threads: the one that trains, the heartbeat, and watchers.
"""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from types import FrameType, TracebackType
from typing import Any, Self

from stentor.errors import StentorError
from stentor.jobs import claim
from stentor.runs import Run, Status, append_event, list_checkpoints, write_status
from training.disk import DiskError, describe_failure, is_full_disk, writing
from training.hardware import sample_load
from training.heartbeat import Heartbeat

HEARTBEAT_SECONDS = 1.0
LOAD_SECONDS = 5.0
# Called with the kind and the values of each event after it was written, from any thread.
Observer = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a run that goes: to save and end, to save, to continue its prompts."""

    stop: bool = False
    save: bool = False
    sample: bool = False


class Recorder:
    """Writes what happens to the run folder; used as a context manager around a whole run.

    Leaving the block records how the run ended: finished, stopped, or failed with the reason. On a
    full disk the reason may not find room; then the status still says `running`, and whoever reads
    it sees that the process is gone.

    From the first event on, a heartbeat keeps the status fresh and tells of the machine's load,
    however long a stage takes between its steps. (Before that, this process may still become the
    launcher of others, and no thread may write then.) `observer` is told of every event, one that
    it raises itself included; no lock of the recorder is held meanwhile.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.status = Status()
        self.tokens = 0  # training tokens of the whole run so far
        self.observer: Observer | None = None
        self._was_told_to_stop = False
        self._is_finished = False
        self._lock = RLock()  # guards the status, the two files, and the two flags below
        self._is_beating = False
        self._is_open = False  # inside the block, where alone the heartbeat may write
        self._heartbeat = Heartbeat(self._beat, HEARTBEAT_SECONDS)
        self._next_load = 0.0  # on the clock of time.monotonic; 0: nothing was measured yet

    def __enter__(self) -> Self:
        self.status = claim(self.run)
        self.update(state="running")
        self._is_open = True
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        with self._lock:
            self._is_open = False
        self._heartbeat.stop()
        if error is None:
            self.update(state="finished" if self._is_finished else "stopped")
            return False
        is_expected = isinstance(error, StentorError) or is_full_disk(error)
        message = self._reason(error)
        with self._lock:
            self.status = replace(self.status, state="failed", error=message)
        with suppress(DiskError):
            self.event("error", message=message)
        with suppress(DiskError):
            self.update()
        self.say(f"Failed: {message}")
        return is_expected  # anything else goes on to the interpreter, which prints where it was

    def _reason(self, error: BaseException) -> str:
        """Return why a run failed; where the disk is to blame, also what of the run is left."""
        if isinstance(error, OSError) and is_full_disk(error):
            what = str(error.filename or "A file of this run")
            return f"{describe_failure(what, self.run.folder, error)} {self.kept()}"
        if isinstance(error, DiskError):
            return f"{error} {self.kept()}"
        return str(error) if isinstance(error, StentorError) else f"{type(error).__name__}: {error}"

    def kept(self) -> str:
        """Say which checkpoint a resumed run goes on from: the last written that is still there."""
        names = [folder.name for folder in list_checkpoints(self.run)]
        if not names:
            return "No checkpoint was written yet; resume begins anew."
        name = self.status.checkpoint if self.status.checkpoint in names else names[-1]
        return f"Checkpoint {name} is kept; resume goes on from it."

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._was_told_to_stop = True  # nothing else: a handler must not print into a print

    def stop_requested(self) -> bool:
        """Tell whether the run should save and end."""
        return self._was_told_to_stop or self.run.stop_file.exists()

    def wishes(self) -> Wishes:
        """Return what is asked for now; a save and samples are asked for once, so these are taken.

        A stop stays asked for until the run has ended.
        """
        save, sample = (_take(path) for path in (self.run.save_file, self.run.sample_file))
        return Wishes(self.stop_requested(), save, sample)

    def finish(self) -> None:
        """Note that every stage is done; a block left without this was stopped."""
        self._is_finished = True
        self.say("Finished.")

    def say(self, message: str) -> None:
        """Print one line for people; the run's log is this process's output.

        A log that cannot be written ends no training.
        """
        with suppress(OSError):
            # One write, because threads say something, too.
            print(f"{time.strftime('%H:%M:%S')} {message}\n", end="", flush=True)

    def event(self, kind: str, **values: object) -> None:
        """Append one event.

        Raises:
            DiskError: there is no room for it.
        """
        with self._lock:
            self._append(kind, values)
            if self._is_open and not self._is_beating:
                self._is_beating = True
                self._heartbeat.start()
        self._tell(kind, values)

    def _append(self, kind: str, values: Mapping[str, Any]) -> None:
        with writing("The event log", self.run.folder):
            append_event(self.run, kind, **values)

    def _tell(self, kind: str, values: Mapping[str, Any]) -> None:
        observer = self.observer
        if observer is not None:
            observer(kind, values)

    def warn(self, message: str) -> None:
        """Record and print a warning."""
        self.event("warning", message=message)
        self.say(f"Warning: {message}")

    def update(self, **changes: object) -> None:
        """Change the status and write it with a fresh heartbeat.

        Raises:
            DiskError: there is no room for it.
        """
        values = {**changes, "heartbeat": time.time()}
        with self._lock:
            self.status = replace(self.status, **values)  # type: ignore[arg-type]
            with writing("The status", self.run.folder):
                write_status(self.run, self.status)

    def progress(self, step: int, tokens: int) -> None:
        """Note the step; it is written no more often than a reader could care."""
        with self._lock:
            self.status, self.tokens = replace(self.status, step=step), tokens
            if self._is_stale() or step == self.status.total_steps:
                self.update()

    def _is_stale(self) -> bool:
        return time.time() - self.status.heartbeat >= HEARTBEAT_SECONDS

    def _beat(self) -> None:
        """Refresh the status, and tell of the load where it is time; after the end do neither.

        A full disk is left to the thread that trains: it meets it at its own next word.
        """
        with suppress(DiskError):
            with self._lock:
                if self._is_stale() and self._is_open:
                    self.update()
            if time.monotonic() >= self._next_load:
                self._tell_load()

    def _tell_load(self) -> None:
        """Record the load; the first measurement only begins the one of the CPU, see psutil."""
        load = sample_load(self.run.folder)
        is_first, self._next_load = not self._next_load, time.monotonic()
        if is_first:
            return
        self._next_load += (
            LOAD_SECONDS - HEARTBEAT_SECONDS / 2
        )  # beats are a little late, not early
        with self._lock:
            if not self._is_open:
                return
            place = {"stage": self.status.stage, "step": self.status.step, "tokens": self.tokens}
            values = {**place, **load}
            self._append("system", values)
        self._tell("system", values)


def _take(path: Path) -> bool:
    """Tell whether a file is there, and remove it; one that cannot be removed is no wish."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


class SilentRecorder(Recorder):
    """A recorder of a worker that is not the main one: it keeps its status, and writes nothing.

    Stop signals reach every worker, and the stop file is seen by every worker; they agree at each
    step (see Workers.any_of). What else is asked for the main worker alone takes.
    """

    def wishes(self) -> Wishes:
        """Return whether a stop was asked for."""
        return Wishes(stop=self.stop_requested())

    def say(self, message: str) -> None:
        """Leave the line to the main worker."""

    def event(self, kind: str, **values: object) -> None:
        """Leave the event to the main worker."""

    def update(self, **changes: object) -> None:
        """Change the status in memory."""
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]

    def progress(self, step: int, tokens: int) -> None:
        """Note the step in memory."""
        self.tokens = tokens
        self.update(step=step)
