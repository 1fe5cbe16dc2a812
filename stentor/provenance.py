"""Where a number comes from: the versions and the machine. Standard library only."""

import math
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from stentor import __version__

CONTROL_GROUP = Path("/sys/fs/cgroup")


def versions() -> dict[str, str]:
    """Return the versions of everything that decides a generated text."""
    return {
        "stentor": __version__,
        "torch": version("torch"),
        "numba": version("numba"),
        "tokenizers": version("tokenizers"),
        "python": platform.python_version(),
    }


def machine() -> dict[str, str | int]:
    """Return what decides a speed: processor, cores this process may use, memory in bytes."""
    return {
        "processor": _processor(),
        "cores": num_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


def num_cores() -> int:
    """Return the cores that this process may use; a container may be allowed fewer than it sees."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, cores_allowed(CONTROL_GROUP)))


def cores_allowed(control_group: Path) -> int:
    """Return the cores that Linux lets a control group use, rounded up; many where it says none.

    cpu.max holds microseconds of processor time and of the period that they are for, or `max`.
    """
    try:
        quota, period = (control_group / "cpu.max").read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return sys.maxsize


def _processor() -> str:
    """Return the processor's name; Linux keeps it in /proc/cpuinfo, others in the platform."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
