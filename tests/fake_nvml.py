"""NVML of a machine with two RTX 4090s, for tests: pynvml's own structures, errors and constants.

It has the functions that stentor/gpus.py uses and nothing else, so that another one is missed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

GIGABYTE = 1 << 30
Value = TypeVar("Value")


@dataclass
class FakeGpu:
    """One card. `unsupported`: the functions that this card does not answer."""

    bus: int
    uuid: str
    used: int = 2 * GIGABYTE
    busy: int = 97
    milliwatts: int = 431_250
    limit: int = 450_000
    heat: int = 66
    reasons: int = 0
    processes: tuple[tuple[int, int | None], ...] = ()
    unsupported: tuple[str, ...] = ()
    is_lost: bool = False


def two_cards() -> list[FakeGpu]:
    """Return a card at its power limit, and a hot one that slows itself and hides its power."""
    return [
        FakeGpu(bus=1, uuid="GPU-one", reasons=pynvml.nvmlClocksThrottleReasonSwPowerCap),
        FakeGpu(
            bus=65,
            uuid="GPU-two",
            used=23 * GIGABYTE,
            busy=100,
            heat=91,
            reasons=pynvml.nvmlClocksThrottleReasonHwSlowdown
            | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
            processes=((4321, 22 * GIGABYTE), (77, None)),
            unsupported=("nvmlDeviceGetPowerUsage",),
        ),
    ]


@dataclass
class FakeNvml:
    """Stands in for the module pynvml. `init_error`: what starting fails with, if anything."""

    cards: list[FakeGpu] = field(default_factory=two_cards)
    init_error: int | None = None
    is_started: bool = False
    num_starts: int = 0

    NVMLError = pynvml.NVMLError
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    # Two machines are two, even with equal cards.
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - constants of an untyped module
        if name.startswith("nvmlClocksThrottleReason"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def nvmlInit(self) -> None:  # noqa: N802 - pynvml's names, here and below
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.is_started = True
        self.num_starts += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._need_start()
        self.is_started = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._need_start()
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if self.cards[index].is_lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.cards[index]

    def nvmlDeviceGetPciInfo(self, card: FakeGpu) -> Any:  # noqa: N802, ANN401
        return self._answer(card, "PciInfo", lambda: pynvml.nvmlPciInfo_t(bus=card.bus))

    def nvmlDeviceGetName(self, card: FakeGpu) -> str:  # noqa: N802
        return self._answer(card, "Name", lambda: "NVIDIA GeForce RTX 4090")

    def nvmlDeviceGetUUID(self, card: FakeGpu) -> str:  # noqa: N802
        return self._answer(card, "UUID", lambda: card.uuid)

    def nvmlDeviceGetMemoryInfo(self, card: FakeGpu) -> Any:  # noqa: N802, ANN401
        memory = pynvml.c_nvmlMemory_t(
            total=24 * GIGABYTE, used=card.used, free=24 * GIGABYTE - card.used
        )
        return self._answer(card, "MemoryInfo", lambda: memory)

    def nvmlDeviceGetUtilizationRates(self, card: FakeGpu) -> Any:  # noqa: N802, ANN401
        rates = pynvml.c_nvmlUtilization_t(gpu=card.busy, memory=40)
        return self._answer(card, "UtilizationRates", lambda: rates)

    def nvmlDeviceGetPowerUsage(self, card: FakeGpu) -> int:  # noqa: N802
        return self._answer(card, "PowerUsage", lambda: card.milliwatts)

    def nvmlDeviceGetEnforcedPowerLimit(self, card: FakeGpu) -> int:  # noqa: N802
        return self._answer(card, "EnforcedPowerLimit", lambda: card.limit)

    def nvmlDeviceGetTemperature(self, card: FakeGpu, sensor: int) -> int:  # noqa: N802
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self._answer(card, "Temperature", lambda: card.heat)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, card: FakeGpu) -> int:  # noqa: N802
        return self._answer(card, "CurrentClocksThrottleReasons", lambda: card.reasons)

    def nvmlDeviceGetComputeRunningProcesses(self, card: FakeGpu) -> Any:  # noqa: N802, ANN401
        found = [
            pynvml.nvmlFriendlyObject({"pid": pid, "usedGpuMemory": used})
            for pid, used in card.processes
        ]
        return self._answer(card, "ComputeRunningProcesses", lambda: found)

    def _answer(self, card: FakeGpu, what: str, value: Callable[[], Value]) -> Value:
        self._need_start()
        if f"nvmlDeviceGet{what}" in card.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return value()

    def _need_start(self) -> None:
        if not self.is_started:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
