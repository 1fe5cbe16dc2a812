"""The only training loop: yields one StepReport a step. Knows no files, stages or UI.

A step sees one batch, whoever shares it: this worker takes its rows in micro batches, and weights
are such that the gradient is that of the plain mean over the whole batch.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from stentor.errors import TrainingError
from training.optim import set_learning_rate
from training.schedule import learning_rate_factor
from training.settings import PretrainSettings
from training.workers import Workers, unwrapped, without_averaging


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did, of all workers together.

    `step` counts from 1; `loss` is in nats per token, before the update; `gradient_norm` is the one
    before clipping.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float

    @property
    def is_finite(self) -> bool:
        """Tell whether the step was taken; a step of NaN or infinity never is."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


def train_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch_of_step: Callable[[int], torch.Tensor],
    settings: PretrainSettings,
    workers: Workers,
    first_step: int = 0,
) -> Iterator[StepReport]:
    """Train from `first_step` (0-based) to the end of the stage, yielding after each update.

    `network` comes from `workers.prepare` and returns the mean loss of (rows, length) windows;
    `batch_of_step(step)` returns the (batch, length) token ids of a step, the same for all workers.

    Raises:
        TrainingError: the loss or the gradient is NaN or infinite; that step was reported but
            not taken, so the weights are those of the step before.
    """
    network.train()
    for step in range(first_step, settings.total_steps()):
        started = time.perf_counter()
        rate = settings.learning_rate * learning_rate_factor(step, settings)
        set_learning_rate(optimizer, rate)
        batch = batch_of_step(step)
        loss = _accumulate(network, batch, settings.micro_batch_size, workers)
        norm = _clip(network, settings.clip_norm)
        # One look at the device a step. All workers get the same two numbers, and decide alike.
        both = workers.sum(torch.stack([loss, norm.double() / workers.num_workers])).tolist()
        is_finite = all(map(math.isfinite, both))
        if is_finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        speed = batch.numel() / (time.perf_counter() - started)
        yield StepReport(step + 1, both[0], rate, both[1], speed)
        if not is_finite:
            raise TrainingError(
                f"Loss {both[0]} and gradient norm {both[1]} at step {step + 1}: training has "
                f"diverged. Lower the learning rate (now {rate:g}) or look at the windows of this "
                "step."
            )


def _accumulate(
    network: nn.Module, batch: torch.Tensor, micro_batch_size: int, workers: Workers
) -> torch.Tensor:
    """Add up the gradients of a batch; return this worker's part of its mean loss, float64.

    Gradients are averaged over the workers after the last micro batch, hence the factor: their
    mean is then the sum of what each row gives, divided by the rows of the whole batch.

    Raises:
        TrainingError: there are fewer rows than workers.
    """
    num_rows = batch.shape[0]
    if num_rows < workers.num_workers:
        raise TrainingError(
            f"A batch of {num_rows} windows cannot be shared by {workers.num_workers} workers."
        )
    parts = torch.split(workers.share(batch), micro_batch_size)
    total = torch.zeros((), dtype=torch.float64, device=workers.device)
    for number, windows in enumerate(parts, start=1):
        share = windows.shape[0] / num_rows
        with nullcontext() if number == len(parts) else without_averaging(network):
            loss = network(windows)
            torch.autograd.backward(loss * (share * workers.num_workers))
        total += loss.detach().double() * share
    return total


def _clip(network: nn.Module, limit: float) -> torch.Tensor:
    """Scale all gradients down to the global norm `limit` (0: no limit); return the norm before."""
    parameters = [p for p in network.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def validation_loss(
    network: nn.Module, batches: Iterable[torch.Tensor], workers: Workers | None = None
) -> float:
    """Return the mean loss over held-out windows, without changing the network.

    Several workers take turns with the batches, and all get the result.
    """
    inner = unwrapped(network)  # the wrapper would meet the other workers at every batch
    device = next(inner.parameters()).device
    was_training = inner.training
    inner.train(False)
    totals = torch.zeros(2, dtype=torch.float64, device=device)  # loss times windows, windows
    with torch.inference_mode():
        for number, windows in enumerate(batches):
            if workers is None or number % workers.num_workers == workers.rank:
                loss = inner(windows.to(device)).double()
                totals += torch.stack([loss, torch.ones_like(loss)]) * windows.shape[0]
    inner.train(was_training)
    loss_sum, num_windows = (totals if workers is None else workers.sum(totals)).tolist()
    return float(loss_sum / num_windows)
