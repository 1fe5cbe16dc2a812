"""Is there room: memory for every stage, disk for the whole run, and a folder to write to?"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from stentor.gpus import Gpu
from stentor.home import runs_folder
from training.memory import predict_memory
from training.memory_check import memory_limit
from training.preflight.report import (
    DISK,
    ERROR,
    MEMORY,
    OUTPUT,
    WARNING,
    Problem,
)
from training.preflight.stages import PlannedStage
from training.settings import PretrainSettings

CGROUP_MEMORY = Path("/sys/fs/cgroup")
LESS_MEMORY = "A smaller micro_batch_size, gradient_checkpointing or a smaller model needs less."
# A disk filled to the brim serves nobody; and logs, samples and wishes to save take some more.
DISK_RESERVE = 1.1


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one process at its peak, what there is for it at all, and what is free of that."""

    predicted: int
    limit: int
    free: int
    num_sharers: int  # processes that live from `limit` together


def stage_memory(
    planned: PlannedStage, num_workers: int, gpus: Sequence[Gpu]
) -> StageMemory | None:
    """Return the memory of a training stage; None where nothing is trained. `gpus`: the chosen."""
    settings = planned.stage.settings
    if not isinstance(settings, PretrainSettings):
        return None
    has_cuda = torch.cuda.is_available()
    device = torch.device("cuda" if has_cuda else "cpu")
    predicted = predict_memory(planned.shape, settings, device, num_workers).total
    if not has_cuda:
        return StageMemory(predicted, memory_limit(device), free_memory(), num_workers)
    limit = min([gpu.total_bytes for gpu in gpus if gpu.total_bytes] or [memory_limit(device)])
    used = max((gpu.memory_bytes or 0 for gpu in gpus), default=0)
    return StageMemory(predicted, limit, limit - used, 1)


def free_memory() -> int:
    """Return the bytes that this machine, or the container, has left now."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP_MEMORY / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP_MEMORY / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available
    return min(available, max(0, limit - used))


def memory_problems(stage: str, memory: StageMemory) -> Iterator[Problem]:
    """Yield that a stage needs more than there is, or than is free now."""
    needed = memory.predicted * memory.num_sharers
    each = f" ({memory.num_sharers} processes)" if memory.num_sharers > 1 else ""
    where = "each GPU" if torch.cuda.is_available() else "this machine"
    what = f"The stage needs about {gigabytes(needed)} of memory{each}"
    if needed > memory.limit:
        message = f"{what} and {where} has {gigabytes(memory.limit)}."
        yield Problem(stage, ERROR, MEMORY, message, LESS_MEMORY)
    elif needed > memory.free:
        message = f"{what}; of {gigabytes(memory.limit)} only {gigabytes(memory.free)} are free."
        mend = f"End what holds the rest before the run starts. {LESS_MEMORY}"
        yield Problem(stage, WARNING, MEMORY, message, mend)


def free_disk(folder: Path) -> int:
    """Return the bytes free on the disk that holds `folder`, or will once it is made."""
    return shutil.disk_usage(_existing(folder)).free


def disk_problems(peak_bytes: int) -> Iterator[Problem]:
    """Yield that the run would fill its disk."""
    free = free_disk(runs_folder())
    if peak_bytes > free:
        level, word = ERROR, "has"
    elif peak_bytes * DISK_RESERVE > free:
        level, word = WARNING, "has just"
    else:
        return
    yield Problem(
        None,
        level,
        DISK,
        f"The run needs about {gigabytes(peak_bytes)} of disk and {runs_folder()} {word} "
        f"{gigabytes(free)} free.",
        "Delete old runs, lower keep_last, or set STENTOR_HOME to a larger disk.",
    )


def output_problems() -> Iterator[Problem]:
    """Yield that no run can be written; a run's own folder is always a new one."""
    folder = runs_folder()
    existing = _existing(folder)
    if not existing.is_dir():
        message = f"{existing} is no folder, so runs cannot be kept in {folder}."
        yield Problem(None, ERROR, OUTPUT, message, "Remove it, or set STENTOR_HOME.")
        return
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"x")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        message = f"{existing} cannot be written to ({error.strerror or error})."
        mend = "Give yourself the right to write there, or set STENTOR_HOME to another folder."
        yield Problem(None, ERROR, OUTPUT, message, mend)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def gigabytes(num_bytes: float) -> str:
    """Return a size for people."""
    return f"{num_bytes / 1e9:,.2f} GB"
