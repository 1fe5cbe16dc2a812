"""What a system event says of the machine."""

import json
from pathlib import Path

import psutil
from fake_nvml import GIGABYTE, FakeNvml

from stentor.gpus import read_gpus
from training.hardware import GPU_FIELDS, describe_machine, machine_to_json, sample_load


def test_the_load_of_two_cards_is_plain_json(tmp_path: Path) -> None:
    load = json.loads(json.dumps(sample_load(tmp_path, lambda: read_gpus(FakeNvml()))))
    one, two = load["gpu"]
    assert tuple(one) == GPU_FIELDS, "no process of another user is written into a log"
    assert (one["index"], one["memory_bytes"], one["power_watts"]) == (0, 2 * GIGABYTE, 431.25)
    assert (two["temperature"], two["throttle"]) == (91.0, ["thermal"])
    assert two["power_watts"] is None, "what NVML cannot give is null"


def test_memory_is_that_of_the_process_and_of_the_machine(tmp_path: Path) -> None:
    load = sample_load(tmp_path, lambda: ())
    assert 0 < load["memory_bytes"] < load["memory_total_bytes"]
    assert 0 < load["memory_used_bytes"] <= load["memory_total_bytes"]
    assert load["memory_total_bytes"] == psutil.virtual_memory().total
    assert load["cpu_percent"] >= 0.0 and load["gpu"] == []


def test_a_disk_that_does_not_answer_is_null(tmp_path: Path) -> None:
    assert sample_load(tmp_path, lambda: ())["disk_free_bytes"] > 0
    assert sample_load(tmp_path / "gone", lambda: ())["disk_free_bytes"] is None


def test_a_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.device in ("cpu", "cuda") and machine.num_cores > 0 and machine.name
    assert machine_to_json()["memory_bytes"] == machine.memory_bytes
