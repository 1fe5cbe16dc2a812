"""Every GPU of this machine as it is now, read through NVML (https://docs.nvidia.com/deploy/nvml-api).

NVML sees all of them whatever CUDA_VISIBLE_DEVICES says, and starts no context on any: a reading
takes no GPU memory. No driver and no GPU read alike, as nothing. Knows no torch and no training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import pynvml  # type: ignore[import-untyped]

# The module pynvml, which has no types, or what a test puts in its place.
Nvml = Any
# A handle of NVML, and what one of its functions returns.
Handle = Any
# Why a GPU is slower than it could be, by the constants of NVML that say so. Others (idle, clocks
# that somebody chose) are no trouble. A hardware slowdown is told by its cause where that is known.
HEAT = ("SwThermalSlowdown", "HwThermalSlowdown")
POWER = ("SwPowerCap",)
POWER_BRAKE = ("HwPowerBrakeSlowdown",)
HARDWARE = ("HwSlowdown",)
THROTTLE_PREFIX = "nvmlClocksThrottleReason"


@dataclass(frozen=True)
class GpuProcess:
    """A process that computes on a GPU; `memory_bytes` is None where the driver does not tell."""

    pid: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One GPU at one moment; None is what the card or its driver does not tell."""

    index: int  # in the order of the PCI slots, as CUDA_DEVICE_ORDER=PCI_BUS_ID counts
    name: str
    uuid: str | None
    total_bytes: int | None
    memory_bytes: int | None  # in use, by anyone
    utilisation: float | None  # percent of the last moments in which something ran
    power_watts: float | None
    power_limit_watts: float | None
    temperature: float | None  # degrees Celsius
    throttle: tuple[str, ...] | None  # of thermal, power, power brake, hardware
    processes: tuple[GpuProcess, ...]


class GpuReader:
    """Reads through one initialisation of NVML, made at the first reading. Thread-safe.

    After a failure as a whole, such as a driver that was unloaded, the next reading begins anew.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._is_ready = False
        self._lock = Lock()

    def read(self) -> tuple[Gpu, ...]:
        """Return every GPU that answers; never raises for a driver's sake."""
        with self._lock:
            try:
                if not self._is_ready:
                    self._nvml.nvmlInit()
                    self._is_ready = True
                count = self._nvml.nvmlDeviceGetCount()
            except self._nvml.NVMLError:
                self._forget()
                return ()
            handles = self._handles(count)
            found = [self._read(index, handle) for index, handle in enumerate(handles)]
            return tuple(gpu for gpu in found if gpu is not None)

    def _forget(self) -> None:
        """Give up an initialisation that is no good, or that never was."""
        if self._is_ready:
            self._is_ready = False
            self._ask(self._nvml.nvmlShutdown)

    def _handles(self, count: int) -> list[Handle | None]:
        """Return the handles in the order of the slots; None is a GPU that has left the bus."""
        handles = [self._ask(self._nvml.nvmlDeviceGetHandleByIndex, n) for n in range(count)]
        slots = [
            handle and self._ask(self._nvml.nvmlDeviceGetPciInfo, handle) for handle in handles
        ]
        if not all(slots):  # as NVML lists them, then: that is their order, too, if unpromised
            return handles
        places = [(slot.domain, slot.bus, slot.device) for slot in slots]
        return [handles[n] for n in sorted(range(count), key=lambda n: places[n])]

    def _read(self, index: int, handle: Handle | None) -> Gpu | None:
        if handle is None:
            return None
        nvml, ask = self._nvml, self._ask
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        rates = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        power = ask(nvml.nvmlDeviceGetPowerUsage, handle)  # milliwatts
        limit = ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        heat = ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        return Gpu(
            index=index,
            name=str(ask(nvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"),
            uuid=ask(nvml.nvmlDeviceGetUUID, handle),
            total_bytes=None if memory is None else int(memory.total),
            memory_bytes=None if memory is None else int(memory.used),
            utilisation=None if rates is None else float(rates.gpu),
            power_watts=None if power is None else power / 1000,
            power_limit_watts=None if limit is None else limit / 1000,
            temperature=None if heat is None else float(heat),
            throttle=self._throttle(handle),
            processes=tuple(
                GpuProcess(int(process.pid), process.usedGpuMemory)
                for process in ask(nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ()
            ),
        )

    def _throttle(self, handle: Handle) -> tuple[str, ...] | None:
        """Return why the GPU is held back now, in words."""
        # Its newer name, ...ClocksEventReasons, is missing from drivers before 535.
        reasons = self._ask(self._nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        if reasons is None:
            return None

        def has(names: tuple[str, ...]) -> bool:
            return any(reasons & getattr(self._nvml, THROTTLE_PREFIX + name) for name in names)

        causes = {"thermal": has(HEAT), "power": has(POWER), "power brake": has(POWER_BRAKE)}
        # NVML sets the general bit beside that of a cause.
        causes["hardware"] = has(HARDWARE) and not has((*HEAT, *POWER_BRAKE))
        return tuple(word for word, is_so in causes.items() if is_so)

    def _ask(self, function: Callable[..., Any], *values: object) -> Any:  # noqa: ANN401 - see Nvml
        """Return what NVML answers, None where this card or driver does not tell."""
        try:
            return function(*values)
        except self._nvml.NVMLError:
            return None


def read_gpus(nvml: Nvml = pynvml) -> tuple[Gpu, ...]:
    """Return every GPU of this machine; none where there is no driver or no NVIDIA GPU.

    Milliseconds: NVML is initialised once in a process.
    """
    return _reader(nvml).read()


@cache
def _reader(nvml: Nvml) -> GpuReader:
    return GpuReader(nvml)
