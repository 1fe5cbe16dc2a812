"""The curves of a machine's load, from the event `system`. Knows no other event."""

from collections.abc import Mapping
from typing import Any

from stentor.ui.chart_notes import whole
from stentor.ui.chart_table import as_number

MAX_GPUS = 64
# Curve -> field of the event, then of each of its GPUs.
MACHINE_CURVES = {
    "cpu_percent": "cpu_percent",
    "memory_used": "memory_used_bytes",
    "process_memory": "memory_bytes",
    "disk_free": "disk_free_bytes",
}
GPU_CURVES = {
    "utilisation": "utilisation",
    "memory": "memory_bytes",
    "power": "power_watts",
    "temperature": "temperature",
}


def load_values(system: Mapping[str, Any]) -> dict[str, float]:
    """Return the value of each curve that an event has one for."""
    values = {name: as_number(system.get(key)) for name, key in MACHINE_CURVES.items()}
    for index, gpu in _gpus(system):
        for name, key in GPU_CURVES.items():
            values[f"gpu{index}_{name}"] = as_number(gpu.get(key))
    return {name: value for name, value in values.items() if value is not None}


def list_gpus(system: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return number and name of every GPU of an event."""
    return [{"index": index, "name": str(gpu.get("name") or "")} for index, gpu in _gpus(system)]


def _gpus(system: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the GPUs of an event by their number."""
    gpus = system.get("gpu")
    if not isinstance(gpus, list):
        return []
    known = [gpu for gpu in gpus[:MAX_GPUS] if isinstance(gpu, Mapping)]
    return [(whole(gpu.get("index", place)), gpu) for place, gpu in enumerate(known)]
