"""The cores of this machine, shared by the models that are decoding at this moment.

One budget belongs to all engines of a process: two busy models have half of the cores each, a lone
one has them all. No result depends on the number of threads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class ThreadBudget:
    """`total` threads for whoever computes now. Thread-safe."""

    def __init__(self, total: int) -> None:
        self.total = max(1, total)
        self._lock = Lock()
        self._num_busy = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count the caller as busy for as long as it has requests to serve."""
        with self._lock:
            self._num_busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_busy -= 1

    def share(self) -> int:
        """Return how many threads a busy caller may use for its next step."""
        return max(1, self.total // max(1, self._num_busy))
