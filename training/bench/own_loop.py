"""Our loop, built as a training stage builds it, in a child process."""

import math
from pathlib import Path

import numpy as np
import torch

from stentor.errors import TrainingError
from stentor.loading import Checkpoint, open_checkpoint_folder, read_weights
from training.bench.clock import StepClock
from training.bench.plan import TrainAnswer, TrainJob
from training.checkpoint import build_model
from training.compiled import compile_network
from training.loop import train_steps
from training.memory import peak_memory, predict_memory, reset_peak_memory
from training.network import TrainingNetwork
from training.optim import make_optimizer
from training.recipes.card import card
from training.settings import PretrainSettings
from training.workers import open_workers

JOB = TrainJob


def measure(job: TrainJob) -> TrainAnswer:
    """Train with our loop and time its steps."""
    workers = open_workers(job.num_threads)
    settings = settings_of(job)
    checkpoint = open_checkpoint_folder(Path(job.folder))
    # Before anything is loaded, as in a stage.
    predicted_bytes = predict_memory(checkpoint.shape, settings, workers.device).total
    network = workers.prepare(_network(checkpoint, job, workers.device))
    optimizer = make_optimizer(network, settings)
    windows = torch.from_numpy(np.load(job.windows_file))
    clock = StepClock(job.device, job.warmup_steps, job.num_steps)
    first_loss = math.nan
    reset_peak_memory(workers.device)

    def batch_of_step(step: int) -> torch.Tensor:
        return windows[step * job.batch_size : (step + 1) * job.batch_size]

    for report in train_steps(network, optimizer, batch_of_step, settings, workers):
        clock.step_ended(report.step)
        if report.step == 1:
            first_loss = report.loss
    return TrainAnswer(
        seconds=clock.seconds,
        num_tokens=job.num_steps * job.batch_size * windows.shape[1],
        first_loss=first_loss,
        peak_bytes=peak_memory(workers.device),
        predicted_bytes=predicted_bytes,
    )


def _network(checkpoint: Checkpoint, job: TrainJob, device: torch.device) -> TrainingNetwork:
    # A model of random weights names no end of text, and training needs none here.
    model = build_model(checkpoint.shape, read_weights(checkpoint), end_token=0)
    network = TrainingNetwork(
        model,
        precision=job.line.precision,
        gradient_checkpointing=job.line.is_checkpointed,
    )
    problem = compile_network(network, device) if job.line.is_compiled else None
    if problem:
        raise TrainingError(problem)
    return network


def settings_of(job: TrainJob) -> PretrainSettings:
    """Return the card's settings with the job's sizes."""
    settings = card().stages[1].settings
    assert isinstance(settings, PretrainSettings)
    return PretrainSettings(
        num_steps=job.warmup_steps + job.num_steps,
        batch_size=job.batch_size,
        micro_batch_size=job.micro_batch_size,
        learning_rate=settings.learning_rate,
        warmup_fraction=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        precision=job.line.precision,
        gradient_checkpointing=job.line.is_checkpointed,
        torch_compile=job.line.is_compiled,
    )
