"""What this machine is: device, cores, memory; and what it is doing right now."""

import platform
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from stentor.provenance import num_cores


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
        name=torch.cuda.get_device_name() if has_cuda else platform.processor() or "CPU",
        num_cores=num_cores(),
        memory_bytes=psutil.virtual_memory().total,
        torch_version=torch.__version__,
    )


def machine_to_json() -> dict[str, Any]:
    """Return `describe_machine()` as plain JSON values."""
    return asdict(describe_machine())


def sample_load() -> dict[str, Any]:
    """Return the load since the last call: CPU in percent, this process's memory, GPU memory."""
    gpus = []
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpus.append({"memory_bytes": total - free, "total_bytes": total})
    return {
        "cpu_percent": psutil.cpu_percent(),
        "memory_bytes": psutil.Process().memory_info().rss,
        "gpu": gpus,
    }
