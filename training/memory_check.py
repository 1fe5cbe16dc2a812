"""Memory of a training stage: predicted and refused before it starts, measured when it ends.

How a prediction is made is in memory.py. This part compares it with the machine and tells.
"""

import os
from dataclasses import asdict
from pathlib import Path

import psutil
import torch

from stentor.errors import OptionError
from training.memory import MemoryPrediction, peak_memory
from training.recorder import Recorder

# A prediction further off than this is worth a word (the promise is 15 %).
TOLERANCE = 0.15
# What the libraries of a process take and give back at their own will, whatever is trained.
PROCESS_SLACK = {"cpu": 200 << 20, "cuda": 0}
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_limit(device: torch.device) -> int:
    """Return the bytes that this device, or this machine or container, has for training at all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total: int = psutil.virtual_memory().total
    try:
        return min(total, int(CGROUP_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return total


def tell_prediction(
    recorder: Recorder, stage: str, prediction: MemoryPrediction, device: torch.device
) -> None:
    """Record what each worker will need; refuse what cannot fit.

    Raises:
        OptionError: more than the machine or the GPU has, with what would make it less.
    """
    limit = memory_limit(device)
    parts = asdict(prediction)
    recorder.event(
        "memory", stage=stage, predicted=prediction.total, parts=parts, limit=limit, measured=None
    )
    recorder.say(f"Memory: {_gigabytes(prediction.total)} predicted, {_gigabytes(limit)} there")
    # On a CPU the workers of one machine share its memory; each GPU has its own.
    sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if device.type == "cpu" else 1
    needed = prediction.total * sharers
    if needed > limit:
        largest = ", ".join(f"{name} {_gigabytes(value)}" for name, value in parts.items() if value)
        where = "GPU" if device.type == "cuda" else "machine"
        raise OptionError(
            f"Stage {stage} needs about {_gigabytes(needed)} ({largest}"
            f"{f', for each of {sharers} processes' if sharers > 1 else ''}) and this {where} has "
            f"{_gigabytes(limit)}. A smaller micro_batch_size, gradient_checkpointing or a smaller "
            "model needs less."
        )


def tell_measured(
    recorder: Recorder, stage: str, prediction: MemoryPrediction, device: torch.device
) -> None:
    """Record the peak since the counter was reset, beside what had been predicted."""
    measured = peak_memory(device)
    ratio = measured / prediction.total
    recorder.event(
        "memory", stage=stage, predicted=prediction.total, measured=measured, ratio=ratio
    )
    difference = abs(measured - prediction.total)
    message = (
        f"Memory: {_gigabytes(measured)} at most, {_gigabytes(prediction.total)} predicted "
        f"(ratio {ratio:.2f})"
    )
    if difference > max(TOLERANCE * prediction.total, PROCESS_SLACK.get(device.type, 0)):
        recorder.warn(f"Stage {stage}: {message}; the prediction is off by more than 15 %.")
    else:
        recorder.say(message)


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB"
