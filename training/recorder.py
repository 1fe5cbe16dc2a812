"""The trainer's side of the run folder: events, status, heartbeat, and "was a stop asked for?"."""

import signal
import time
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Self

from stentor.errors import StentorError
from stentor.jobs import claim
from stentor.runs import Run, Status, append_event, write_status
from training.hardware import sample_load

HEARTBEAT_SECONDS = 1.0
LOAD_SECONDS = 5.0


class Recorder:
    """Writes what happens to the run folder; used as a context manager around a whole run.

    Leaving the block records how the run ended: finished, stopped, or failed with the reason.
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
        is_expected = isinstance(error, StentorError)
        message = str(error) if is_expected else f"{type(error).__name__}: {error}"
        self.event("error", message=message)
        self.update(state="failed", error=message)
        self.say(f"Failed: {message}")
        return is_expected  # anything else goes on to the interpreter, which prints where it was

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
        """Print one line for people; the run's log is this process's output."""
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    def event(self, kind: str, **values: object) -> None:
        """Append one event."""
        append_event(self.run, kind, **values)

    def warn(self, message: str) -> None:
        """Record and print a warning."""
        self.event("warning", message=message)
        self.say(f"Warning: {message}")

    def update(self, **changes: object) -> None:
        """Change the status and write it with a fresh heartbeat."""
        values = {**changes, "heartbeat": time.time()}
        self.status = replace(self.status, **values)  # type: ignore[arg-type]
        write_status(self.run, self.status)

    def progress(self, step: int) -> None:
        """Note the step; writes status and load no more often than a reader could care."""
        now = time.time()
        if now - self.status.heartbeat >= HEARTBEAT_SECONDS or step == self.status.total_steps:
            self.update(step=step)
        if now - self._last_load >= LOAD_SECONDS:
            self._last_load = now
            self.event("system", **sample_load())
