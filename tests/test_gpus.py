"""GPUs through NVML: two RTX 4090s that are hot, throttled, shy, lost, or without their driver."""

import subprocess
import sys
from pathlib import Path

import pynvml  # type: ignore[import-untyped]
import pytest
from fake_nvml import GIGABYTE, FakeNvml

from stentor.gpus import GpuProcess, read_gpus

ROOT = Path(__file__).resolve().parent.parent


def test_two_cards_are_told_in_words_and_units() -> None:
    one, two = read_gpus(FakeNvml())
    assert (one.index, one.name, one.uuid) == (0, "NVIDIA GeForce RTX 4090", "GPU-one")
    assert (one.memory_bytes, one.total_bytes) == (2 * GIGABYTE, 24 * GIGABYTE)
    assert (one.utilisation, one.temperature) == (97.0, 66.0)
    assert (one.power_watts, one.power_limit_watts) == (431.25, 450.0), "NVML tells milliwatts"
    assert (one.throttle, one.processes) == (("power",), ())
    assert (two.index, two.uuid, two.temperature) == (1, "GPU-two", 91.0)
    assert two.throttle == ("thermal",), "the general bit beside it says nothing new"
    assert two.processes == (GpuProcess(4321, 22 * GIGABYTE), GpuProcess(77, None))
    assert two.power_watts is None and two.power_limit_watts == 450.0


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("SwThermalSlowdown", "thermal"),
        ("HwPowerBrakeSlowdown", "power brake"),
        ("HwSlowdown", "hardware"),
        ("GpuIdle", None),
        ("ApplicationsClocksSetting", None),
    ],
)
def test_each_reason_has_its_word(name: str, word: str | None) -> None:
    """An idle card and clocks that somebody chose are no alarm."""
    nvml = FakeNvml()
    nvml.cards[0].reasons = getattr(pynvml, f"nvmlClocksThrottleReason{name}")
    assert read_gpus(nvml)[0].throttle == (() if word is None else (word,))


def test_cards_are_counted_by_their_slots() -> None:
    """CUDA_VISIBLE_DEVICES of a run means slots, too."""
    nvml = FakeNvml()
    nvml.cards.reverse()
    assert [(gpu.index, gpu.uuid) for gpu in read_gpus(nvml)] == [(0, "GPU-one"), (1, "GPU-two")]
    nvml.cards[0].unsupported = ("nvmlDeviceGetPciInfo",)
    assert [gpu.uuid for gpu in read_gpus(nvml)] == ["GPU-two", "GPU-one"], "as NVML lists them"


def test_whatever_a_card_does_not_tell_is_nothing() -> None:
    nvml = FakeNvml()
    nvml.cards[0].unsupported = tuple(
        name for name in dir(nvml) if name.startswith("nvmlDeviceGet")
    )
    gpu, _ = read_gpus(nvml)
    assert (gpu.name, gpu.uuid, gpu.processes) == ("NVIDIA GPU", None, ())
    values = (gpu.total_bytes, gpu.memory_bytes, gpu.utilisation, gpu.power_watts)
    assert values == (None,) * 4
    assert (gpu.power_limit_watts, gpu.temperature, gpu.throttle) == (None,) * 3


def test_a_card_that_fell_off_the_bus_hides_no_other() -> None:
    nvml = FakeNvml()
    nvml.cards[0].is_lost = True
    (gpu,) = read_gpus(nvml)
    assert (gpu.index, gpu.uuid) == (1, "GPU-two"), "and the other keeps its number"


@pytest.mark.parametrize(
    "error",
    [
        pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    ],
)
def test_without_a_driver_there_is_no_gpu_until_there_is_one(error: int) -> None:
    nvml = FakeNvml(init_error=error)
    assert read_gpus(nvml) == ()
    nvml.init_error = None
    assert len(read_gpus(nvml)) == 2, "the driver was loaded meanwhile"


def test_nvml_is_started_once_and_again_after_a_reload() -> None:
    """Starting it takes a tenth of a second; a driver that was updated under us needs it anew."""
    nvml = FakeNvml()
    assert [len(read_gpus(nvml)) for _ in range(3)] == [2, 2, 2]
    assert nvml.num_starts == 1
    nvml.is_started = False  # the driver is gone, and with it what was started
    assert read_gpus(nvml) == ()
    assert len(read_gpus(nvml)) == 2 and nvml.num_starts == 2


def test_this_machine_is_read_without_an_exception() -> None:
    for gpu in read_gpus():
        assert gpu.name and (gpu.total_bytes is None or gpu.total_bytes > 0)


def test_the_page_can_import_it_without_torch() -> None:
    code = "import sys, stentor.gpus; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "False\n", found.stderr
