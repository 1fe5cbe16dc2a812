"""The most memory that this process and its children held together, sampled."""

import contextlib
import threading
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.05


class MemoryWatch:
    """Samples from `with` to its end; `peak_bytes` is the most that was seen.

    Memory that several processes share is counted once (Linux's proportional set size), and so are
    file pages that are mapped at that moment.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while True:
            held = sum(_bytes_of(one) for one in (own, *own.children(recursive=True)))
            self.peak_bytes = max(self.peak_bytes, held)
            if self._ended.wait(SAMPLE_SECONDS):
                return


def _bytes_of(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # it ended a moment ago
        info = process.memory_full_info()
        return int(getattr(info, "pss", info.uss))
    return 0
