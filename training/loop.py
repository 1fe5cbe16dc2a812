"""The only training loop: yields one StepReport a step. Knows no files, stages or UI."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from training.optim import set_learning_rate
from training.schedule import learning_rate_factor
from training.settings import PretrainSettings


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did. `step` counts from 1; `loss` is in nats per token."""

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
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch_of_step: Callable[[int], torch.Tensor],
    settings: PretrainSettings,
    first_step: int = 0,
) -> Iterator[StepReport]:
    """Train from `first_step` (0-based) to the end of the stage, yielding after each update.

    `batch_of_step(step)` returns the (batch, 512) token ids of a step.

    Raises:
        TrainingError: the loss or the gradient is NaN or infinite; that step was reported but
            not taken, so the weights are those of the step before.
    """
    device = next(model.parameters()).device
    total_steps = settings.total_steps()
    model.train()
    for step in range(first_step, total_steps):
        started = time.perf_counter()
        factor = learning_rate_factor(
            step, total_steps, settings.warmup_fraction, settings.final_fraction
        )
        set_learning_rate(optimizer, settings.learning_rate * factor)
        batch = batch_of_step(step).to(device)
        loss = _accumulate(model, batch, settings.micro_batch_size)
        limit = settings.clip_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
        report = StepReport(step + 1, loss, settings.learning_rate * factor, norm, 0.0)
        if report.is_finite:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        speed = batch.numel() / (time.perf_counter() - started)
        yield replace(report, tokens_per_second=speed)
        if not report.is_finite:
            raise TrainingError(
                f"Loss {loss} and gradient norm {norm} at step {step + 1}: training has diverged. "
                f"Lower the learning rate (now {settings.learning_rate * factor:g}) or look at "
                "the windows of this step."
            )


def _accumulate(model: LlamaForCausalLM, batch: torch.Tensor, micro_batch_size: int) -> float:
    """Add up the gradients of a batch and return its mean loss."""
    total = 0.0
    for windows in torch.split(batch, micro_batch_size):
        share = windows.shape[0] / batch.shape[0]
        loss = language_model_loss(model, windows) * share
        torch.autograd.backward(loss)
        total += float(loss.detach())
    return total


def language_model_loss(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy in nats of each next token; windows: (batch, length).

    The last position predicts nothing, so it is dropped before the output matrix, the largest
    product of a small model.
    """
    with _precision(windows.device):
        hidden = model.model(input_ids=windows, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden)  # (batch, length - 1, vocabulary)
        return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def validation_loss(model: LlamaForCausalLM, batches: Iterable[torch.Tensor]) -> float:
    """Return the mean loss over held-out windows, without changing the model."""
    device = next(model.parameters()).device
    was_training = model.training
    model.train(False)
    total, num_windows = 0.0, 0
    with torch.inference_mode():
        for windows in batches:
            total += float(language_model_loss(model, windows.to(device))) * windows.shape[0]
            num_windows += windows.shape[0]
    model.train(was_training)
    return total / num_windows


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast on CUDA; fp32 on a CPU, where bf16 products are hundreds of times slower."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()
