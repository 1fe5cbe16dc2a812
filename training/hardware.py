"""What this machine is: device, cores, memory; and what it is doing right now."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from stentor.gpus import Gpu, read_gpus
from stentor.provenance import machine, num_cores

# What a system event says of a GPU; who is on it is the preflight's question.
GPU_FIELDS = (
    "index",
    "name",
    "utilisation",
    "memory_bytes",
    "total_bytes",
    "power_watts",
    "power_limit_watts",
    "temperature",
    "throttle",
)


@dataclass(frozen=True)
class Machine:
    """The facts that belong beside every measured number."""

    device: str  # "cpu" or "cuda"
    name: str
    num_cores: int
    memory_bytes: int
    torch_version: str


def describe_machine() -> Machine:
    """Return what this process can train on."""
    has_cuda = torch.cuda.is_available()
    return Machine(
        device="cuda" if has_cuda else "cpu",
        name=torch.cuda.get_device_name() if has_cuda else str(machine()["processor"]),
        num_cores=num_cores(),
        memory_bytes=psutil.virtual_memory().total,
        torch_version=torch.__version__,
    )


def machine_to_json() -> dict[str, Any]:
    """Return `describe_machine()` as plain JSON values."""
    return asdict(describe_machine())


def sample_load(folder: Path, read: Callable[[], tuple[Gpu, ...]] = read_gpus) -> dict[str, Any]:
    """Return what the machine is doing, as plain JSON values; bytes, percent, watts and Celsius.

    CPU use is that since the same thread asked last (0 at its first time). `folder`: whose disk is
    asked for its free space, None where it does not answer. All GPUs of the machine are told of.
    """
    memory = psutil.virtual_memory()
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": psutil.Process().memory_info().rss,  # of this process
        # Not `used`, which leaves out what a container counts: what nobody else could have.
        "memory_used_bytes": memory.total - memory.available,
        "memory_total_bytes": memory.total,
        "disk_free_bytes": _free_bytes(folder),
        "gpu": [{name: getattr(gpu, name) for name in GPU_FIELDS} for gpu in read()],
    }


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
