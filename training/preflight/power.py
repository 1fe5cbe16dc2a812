"""The power that a machine draws while it trains: GPUs through NVML, a processor through RAPL.

RAPL counts the energy of whole processor packages (Linux, /sys/class/powercap); most systems let
only the administrator read it. What a machine does not tell stays None: nothing is guessed.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from stentor.gpus import Gpu

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 0.5
MICROJOULES = 1e6

ReadGpus = Callable[[], Sequence[Gpu]]


@dataclass(frozen=True)
class _Sample:
    """Seconds since the epoch, watts of the GPUs, joules of the processor since the start."""

    time: float
    gpu_watts: float | None
    processor_joules: float | None


class RaplCounter:
    """Joules that all processor packages have used since this was made; they wrap around."""

    def __init__(self, root: Path = POWERCAP) -> None:
        # intel-rapl:0 is a package (on AMD as well), intel-rapl:0:1 a part of it.
        zones = [path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1]
        self._last = {zone: energy for zone in zones if (energy := _read(zone, "energy_uj"))}
        self._total = 0

    def joules(self) -> float | None:
        """Return the energy so far; None where no counter can be read."""
        for zone, before in self._last.items():
            now = _read(zone, "energy_uj")
            if now is None:
                continue
            wrapped = (_read(zone, "max_energy_range_uj") or 0) if now < before else 0
            self._total += now - before + wrapped
            self._last[zone] = now
        return self._total / MICROJOULES if self._last else None


def _read(zone: Path, name: str) -> int | None:
    try:
        return int((zone / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


class PowerMeter:
    """Looks at the power twice a second in a thread, as long as its `with` block lasts."""

    def __init__(self, read_gpus: ReadGpus, rapl: RaplCounter) -> None:
        """`read_gpus` returns the GPUs that count."""
        self._read_gpus = read_gpus
        self._rapl = rapl
        self._samples: list[_Sample] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.sample()

    def _watch(self) -> None:
        self.sample()
        while not self._ended.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self) -> None:
        """Look once."""
        powers = [gpu.power_watts for gpu in self._read_gpus() if gpu.power_watts is not None]
        watts = sum(powers) if powers else None
        self._samples.append(_Sample(time.time(), watts, self._rapl.joules()))

    def watts(self, start: float, end: float) -> float | None:
        """Return the mean power between two times (seconds since the epoch); None: not told."""
        inside = [
            sample
            for sample in self._samples
            if start - SAMPLE_SECONDS <= sample.time <= end + SAMPLE_SECONDS
        ]
        gpu = [sample.gpu_watts for sample in inside if sample.gpu_watts is not None]
        counted = [
            (sample.time, sample.processor_joules)
            for sample in inside
            if sample.processor_joules is not None
        ]
        processor = None
        if len(counted) > 1:
            (first, low), (last, high) = counted[0], counted[-1]
            processor = (high - low) / (last - first)
        if not gpu and processor is None:
            return None
        return (sum(gpu) / len(gpu) if gpu else 0.0) + (processor or 0.0)

    def source(self) -> str | None:
        """Return what the power is of; None where nothing tells it."""
        known = {
            "GPUs, by NVML": any(s.gpu_watts is not None for s in self._samples),
            "processor, by RAPL": any(s.processor_joules is not None for s in self._samples),
        }
        return " and ".join(name for name, is_known in known.items() if is_known) or None
