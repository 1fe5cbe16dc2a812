"""The machine panel."""

from typing import Any

from stentor.ui.chart import Digest
from stentor.ui.train_machine import panel

EVIL = "<script>alert(1)</script>"


def digest_of(**system: Any) -> Digest:  # noqa: ANN401
    digest = Digest()
    digest.feed([{"kind": "system", **system}])
    return digest


def gpu(**values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "name": "NVIDIA GeForce RTX 4090",
        "utilisation": 97,
        "memory_bytes": 18e9,
        "total_bytes": 24e9,
        "power_watts": 420.4,
        "power_limit_watts": 450,
        "temperature": 81,
        "throttle": [],
        **values,
    }


def test_each_gpu_has_a_line_of_its_own() -> None:
    html = panel(digest_of(gpu=[gpu(index=0), gpu(index=1, throttle=["thermal", "power"])]))
    assert "GPU 0" in html and "GPU 1" in html
    assert "18 GB of 24 GB · 420 of 450 W · 81 °C" in html
    assert html.count("slowed by") == 1 and "slowed by heat, power limit" in html
    assert 'aria-label="GPU 1 busy"' in html


def test_what_nvml_cannot_tell_is_left_out() -> None:
    """Laptops and containers often have no power limit, or no temperature."""
    silent = gpu(index=0, utilisation=None, power_limit_watts=None, temperature=None)
    html = panel(digest_of(gpu=[silent]))
    assert "420 W" in html and "°C" not in html and "<meter" not in html and "None" not in html


def test_without_a_gpu_there_are_the_cpu_and_the_memory() -> None:
    html = panel(
        digest_of(
            cpu_percent=96.4,
            memory_bytes=1.3e9,
            memory_used_bytes=5.2e9,
            memory_total_bytes=16e9,
            disk_free_bytes=41e9,
            gpu=[],
        )
    )
    assert "96 %" in html
    assert "5.2 GB of 16 GB · this run 1.3 GB · disk 41 GB free" in html


def test_before_the_first_measurement_it_says_when_one_comes() -> None:
    assert "every few seconds" in panel(Digest())


def test_names_are_escaped_and_damaged_values_passed_over() -> None:
    digest = digest_of(gpu=[gpu(name=EVIL, throttle=[EVIL]), "x", None], cpu_percent="x")
    digest.feed([{"kind": "machine", "name": EVIL, "num_cores": EVIL, "torch_version": EVIL}])
    assert "<script>" not in panel(digest)
    assert panel(digest_of(gpu=EVIL))
