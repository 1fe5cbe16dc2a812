"""The arithmetic that all workers of a run could do at most, measured where they run.

Model FLOPs utilisation is told against it. Knows no steps.
"""

import os
from functools import cache

import torch

from stentor.provenance import num_cores
from training.flops import measure_matmul_ceiling
from training.workers import Workers

# A stage that starts, and a run that is resumed, waits for this; two or three products say enough.
CEILING_SECONDS = 0.5


def ceiling_flops(workers: Workers, precision: str) -> float | None:
    """Return FLOP/s of matrix products on all workers together; None: this is not the main one.

    Measured once in a process and precision, by the main worker alone: each of the others has a
    GPU like its own, or a share of a machine like its own, whose cores are measured as a whole.
    Numbers and random states of the training are untouched. None where there is no memory for it.
    """
    if not workers.is_main:
        return None
    if workers.device.type == "cuda":
        rate = _measured(workers.device, precision, torch.get_num_threads())
        return rate and rate * workers.num_workers
    on_machine = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    num_threads = min(num_cores(), on_machine * torch.get_num_threads())
    rate = _measured(workers.device, precision, max(1, num_threads))
    return rate and rate * workers.num_workers / on_machine


@cache
def _measured(device: torch.device, precision: str, num_threads: int) -> float | None:
    before = torch.get_num_threads()
    try:
        if num_threads != before:
            torch.set_num_threads(num_threads)
        return measure_matmul_ceiling(device, precision, CEILING_SECONDS)
    except torch.OutOfMemoryError:  # another program holds the GPU
        return None
    finally:
        if num_threads != before:
            torch.set_num_threads(before)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # a gigabyte that the training has not asked for
