"""How many processes train a run, and how one process becomes their launcher.

A run that several processes train replaces itself by torchrun: the pid and its start time stay, so
the run's status stays true, and a signal to that process reaches the workers, which save and end. A
worker never outlives its launcher. Knows nothing of what the workers do.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from typing import NoReturn

import torch

from stentor.errors import OptionError
from stentor.jobs import LAUNCHER_VARIABLE
from stentor.provenance import num_cores
from stentor.run_devices import changed
from stentor.runs import Run
from training.recipe import Recipe
from training.settings import PretrainSettings

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
WATCH_SECONDS = 0.2


def num_processes(recipe: Recipe) -> int:
    """Return how many processes train `recipe` on this machine: what it asks for, else one per GPU.

    Raises:
        OptionError: it asks for more than there are GPUs, or windows in a step, or for a GPU that
            is not there; or accelerate started this process as one of several and told it nothing
            of the others.
    """
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
        raise OptionError(
            "accelerate launch --cpu starts each process as if it were alone, and each would write "
            "the run. Use torchrun, or accelerate launch --multi_gpu, which serves CPUs as well."
        )
    num_gpus = _num_gpus(recipe)
    wanted = recipe.num_processes
    if wanted is None:
        return max(1, min(num_gpus, smallest_batch(recipe)))
    if torch.cuda.is_available() and wanted > num_gpus:
        raise OptionError(
            f"Recipe {recipe.name} asks for {wanted} processes and this machine has {num_gpus} "
            "GPU(s); each process needs one of its own."
        )
    check_shares(recipe, wanted)
    return wanted


def _num_gpus(recipe: Recipe) -> int:
    """Return how many GPUs train `recipe`; a run's own process sees only those that it names.

    Raises:
        OptionError: one that it names is not there. A CPU never stands in for a GPU by name.
    """
    named = recipe.device_numbers()
    there = torch.cuda.device_count()
    if named is None:
        return there
    if there < len(named):
        raise OptionError(
            f"Recipe {recipe.name} is to train on GPU {', '.join(map(str, named))}, and of these "
            f"this machine has {there}. Name GPUs that it has with --devices, or none for all."
        )
    return len(named)


def check_shares(recipe: Recipe, num_workers: int) -> None:
    """Refuse more workers than some step has windows.

    Raises:
        OptionError: a worker would have nothing to do.
    """
    if num_workers > smallest_batch(recipe):
        raise OptionError(
            f"{num_workers} processes cannot share the {smallest_batch(recipe)} window(s) of a "
            f"step of recipe {recipe.name}. Use fewer processes, or a larger batch size."
        )


def smallest_batch(recipe: Recipe) -> int:
    """Return the windows of a step in the stage that has fewest; a recipe may train nothing."""
    settings = (stage.settings for stage in recipe.stages)
    sizes = [item.batch_size for item in settings if isinstance(item, PretrainSettings)]
    return min(sizes, default=1)


def launch_command(run: Run, count: int) -> list[str]:
    """Return the command that starts `count` workers of `run` on this machine."""
    launcher = [sys.executable, "-m", "training.launcher", "--standalone"]
    workers = ["-m", "training", "run", str(run.folder)]
    return [*launcher, "--nproc-per-node", str(count), *workers]


def become_launcher(run: Run, count: int, num_threads: int | None) -> NoReturn:
    """Replace this process by the launcher of `count` workers, each with its share of the cores."""
    threads = num_threads or max(1, num_cores() // count)
    values = {
        LAUNCHER_VARIABLE: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    environment = changed(os.environ, values)
    command = launch_command(run, count)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, environment)


def end_with(launcher: int) -> None:
    """Kill this process as soon as its parent `launcher` is gone.

    A worker that outlived a killed launcher would write into a run that counts as dead, perhaps
    while another process resumes it. Linux does it in the kernel; elsewhere a thread looks.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(launcher,), daemon=True).start()
    if os.getppid() != launcher:  # gone before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
