"""A small thread that does one thing every second until it is told to end. Knows no run."""

from collections.abc import Callable
from threading import Event, Thread, current_thread

# Longest wait for a beat under way, such as one whose disk or driver does not answer.
PATIENCE_SECONDS = 5.0


class Heartbeat:
    """Calls `beat` every `seconds`, first after that time, in a daemon thread of its own."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._is_over = Event()
        self._thread = Thread(target=self._run, name="stentor-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Begin no further beat, and wait for one that is under way; harmless before a start."""
        self._is_over.set()
        if self._thread.is_alive() and self._thread is not current_thread():
            self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        while not self._is_over.wait(self._seconds):
            self._beat()
