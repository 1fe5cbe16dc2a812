"""What a diverged step was trained on: its windows, where they lie, and how their text begins."""

import math
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from training.stage_data import StageData

# Enough to see a bad shard by; a step can have thousands of windows.
MAX_WINDOWS = 16
TEXT_TOKENS = 48
TEXT_CHARACTERS = 160


def windows_of_step(
    network: nn.Module, data: StageData, tokenizer: Tokenizer, step: int, batch_size: int
) -> list[dict[str, Any]]:
    """Return the worst windows of optimizer step `step` (0-based), worst first, as JSON values.

    The step was not taken, so the weights that diverged are still there: each window is measured
    alone with them. NaN and infinite losses come first, then the highest.
    """
    batch = data.batch_of_step(step, batch_size)
    places = data.places_of_step(step, batch_size)
    losses = _losses(network, batch)
    order = sorted(range(len(losses)), key=lambda row: _badness(losses[row]), reverse=True)
    return [
        {
            "label": places[row].label,
            "source": places[row].source,
            "epoch": places[row].epoch,
            "shard": places[row].shard,
            "offset": places[row].offset,
            "loss": losses[row],
            "text": tokenizer.decode(batch[row, :TEXT_TOKENS].tolist())[:TEXT_CHARACTERS],
        }
        for row in order[:MAX_WINDOWS]
    ]


def describe_windows(windows: list[dict[str, Any]], batch_size: int) -> str:
    """Return the worst windows in words, the first of them with its text."""
    bad = [window for window in windows if not math.isfinite(window["loss"])]
    if len(bad) == min(batch_size, MAX_WINDOWS):
        cause = "Every window of the step gives such a loss, so the weights themselves are at fault"
    elif bad:
        cause = f"{len(bad)} of {batch_size} windows give such a loss"
    else:
        cause = "No window alone gives such a loss; the highest is first"
    worst = windows[0]
    return (
        f"{cause}: {worst['label']}, shard {worst['shard']}, offset {worst['offset']} "
        f"(loss {worst['loss']:.4g}), which begins {worst['text'][:60]!r}. The event 'halted' "
        f"lists {len(windows)}."
    )


def _losses(network: nn.Module, batch: torch.Tensor) -> list[float]:
    """Return the loss of each window alone."""
    device = next(network.parameters()).device
    was_training = network.training
    network.train(False)
    with torch.inference_mode():
        losses = [float(network(window[None].to(device))) for window in batch]
    network.train(was_training)
    return losses


def _badness(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
