"""The trainer's side of the run folder: events, status, heartbeat, and "was a stop asked for?"."""

import signal
import time
from contextlib import suppress
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

from stentor.errors import StentorError
from stentor.jobs import claim
from stentor.runs import Run, Status, append_event, list_checkpoints, write_status
from training.disk import DiskError, describe_failure, is_full_disk, writing
from training.hardware import sample_load

HEARTBEAT_SECONDS = 1.0
LOAD_SECONDS = 5.0


class Recorder:
    """Writes what happens to the run folder; used as a context manager around a whole run.

    Leaving the block records how the run ended: finished, stopped, or failed with the reason. On a
    full disk the reason may not find room; then the status still says `running`, and whoever reads
    it sees that the process is gone.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.status = Status()
        self._was_told_to_stop = False
        self._is_finished = False
        self._last_load = 0.0

    def __enter__(self) -> Self:
        self.status = claim(self.run)
        self.update(state="running")
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self.update(state="finished" if self._is_finished else "stopped")
            return False
        is_expected = isinstance(error, StentorError) or is_full_disk(error)
        message = self._reason(error)
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

    def finish(self) -> None:
        """Note that every stage is done; a block left without this was stopped."""
        self._is_finished = True
        self.say("Finished.")

    def say(self, message: str) -> None:
        """Print one line for people; the run's log is this process's output.

        A log that cannot be written ends no training.
        """
        with suppress(OSError):
            print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    def event(self, kind: str, **values: object) -> None:
        """Append one event.

        Raises:
            DiskError: there is no room for it.
        """
        with writing("The event log", self.run.folder):
            append_event(self.run, kind, **values)

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
        self.status = replace(self.status, **values)  # type: ignore[arg-type]
        with writing("The status", self.run.folder):
            write_status(self.run, self.status)

    def progress(self, step: int) -> None:
        """Note the step; writes status and load no more often than a reader could care."""
        now = time.time()
        if now - self.status.heartbeat >= HEARTBEAT_SECONDS or step == self.status.total_steps:
            self.update(step=step)
        if now - self._last_load >= LOAD_SECONDS:
            self._last_load = now
            self.event("system", **sample_load())


class SilentRecorder(Recorder):
    """A recorder of a worker that is not the main one: it keeps its status, and writes nothing.

    Stop signals reach every worker, and the stop file is seen by every worker; they agree at each
    step (see Workers.any).
    """

    def say(self, message: str) -> None:
        """Leave the line to the main worker."""

    def event(self, kind: str, **values: object) -> None:
        """Leave the event to the main worker."""

    def update(self, **changes: object) -> None:
        """Change the status in memory."""
        self.status = replace(self.status, **changes)  # type: ignore[arg-type]

    def progress(self, step: int) -> None:
        """Note the step in memory."""
        self.update(step=step)
