"""The devices that a recipe asks for: are they there, are they free, can its processes share them?

All GPUs of the machine are seen here, whatever CUDA_VISIBLE_DEVICES says.
"""

import os
from collections.abc import Iterator, Sequence

import torch

from stentor.errors import OptionError
from stentor.gpus import Gpu
from stentor.jobs import blocking_run
from training.launch import check_shares, num_processes
from training.preflight.report import ERROR, GPU, NOTE, RECIPE, WARNING, Problem, problem_of
from training.recipe import Recipe
from training.settings import PretrainSettings


def chosen_gpus(recipe: Recipe, gpus: Sequence[Gpu]) -> list[Gpu]:
    """Return the GPUs that a recipe trains on: those that it names, else all."""
    numbers = recipe.device_numbers()
    return [gpu for gpu in gpus if numbers is None or gpu.index in numbers]


def num_workers(recipe: Recipe) -> tuple[int, list[Problem]]:
    """Return how many processes will train, and what is wrong with what the recipe asks for."""
    wanted = recipe.num_processes or 1
    try:
        check_shares(recipe, wanted)
    except OptionError as error:
        return wanted, [problem_of(error, RECIPE)]
    try:
        return num_processes(recipe), []
    except OptionError as error:
        return wanted, [problem_of(error, GPU)]


def device_problems(recipe: Recipe, gpus: Sequence[Gpu]) -> Iterator[Problem]:
    """Yield which GPUs of a recipe are missing or busy."""
    numbers = recipe.device_numbers() or ()
    missing = sorted(set(numbers) - {gpu.index for gpu in gpus})
    if missing:
        there = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus) or "none"
        named = ", ".join(map(str, missing))
        message = f"There is no GPU {named} on this machine; there is: {there}."
        yield Problem(None, ERROR, GPU, message, "Name others with devices, or none to use all.")
    for gpu in chosen_gpus(recipe, gpus):
        for process in gpu.processes:
            if process.pid != os.getpid():
                held, total = process.memory_bytes, gpu.total_bytes
                part = f"{held / 1e9:.2f} GB" if held else "an unknown part"
                size = f"{part} of its {total / 1e9:.1f} GB" if total else part
                yield Problem(
                    None,
                    WARNING,
                    GPU,
                    f"GPU {gpu.index} ({gpu.name}) is used by process {process.pid}, which holds "
                    f"{size}.",
                    "Wait for its end or train on another GPU; speeds measured now are too low.",
                )


def busy_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield that another run is going on the same devices."""
    other = blocking_run(recipe.devices)
    if other is not None:
        yield Problem(
            None,
            WARNING,
            GPU if torch.cuda.is_available() else RECIPE,
            f"Run {other.id} is training here now; speeds measured now are too low.",
            "Wait for its end, or queue the new run.",
        )


def share_problems(recipe: Recipe, workers: int) -> Iterator[Problem]:
    """Yield batches that the processes cannot share evenly, or that no micro batch fills."""
    for stage in recipe.stages:
        settings = stage.settings
        if not isinstance(settings, PretrainSettings):
            continue
        share, rest = divmod(settings.batch_size, workers)
        if rest:
            yield Problem(
                stage.name,
                NOTE,
                RECIPE,
                f"{settings.batch_size} windows of a step do not divide by {workers} processes: "
                "some wait for the others.",
                f"A batch_size of {share * workers or workers} would.",
            )
        elif settings.micro_batch_size < share and share % settings.micro_batch_size:
            yield Problem(
                stage.name,
                NOTE,
                RECIPE,
                f"Each process has {share} windows of a step and takes "
                f"{settings.micro_batch_size} at a time: its last pass is not full.",
                "A micro_batch_size that divides them is a little faster.",
            )
