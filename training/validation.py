"""Held-out loss of each source and of all, so that what a stage forgets is seen while it learns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from training.loop import validation_loss
from training.stage_data import HeldOut, StageData
from training.workers import Workers


@dataclass(frozen=True)
class Validation:
    """Mean losses in nats per token: over all held-out windows, and by the label of their source.

    The overall loss weighs every window alike, so a source counts by its held-out windows.
    """

    step: int
    loss: float
    by_source: dict[str, float]


def validate(
    network: nn.Module, data: StageData, step: int, batch_size: int, workers: Workers
) -> Validation:
    """Return the held-out losses after `step` steps, the same on every worker."""
    total, num_windows = 0.0, 0
    by_source: dict[str, float] = {}
    for part in data.held_out:
        loss = validation_loss(network, _batches(part, batch_size), workers)
        total += loss * len(part.windows)
        num_windows += len(part.windows)
        name = part.label if part.label not in by_source else f"{part.label} ({len(by_source) + 1})"
        by_source[name] = loss
    return Validation(step, total / num_windows, by_source)


def _batches(part: HeldOut, batch_size: int) -> Iterator[torch.Tensor]:
    """Yield a source's held-out windows, up to `batch_size` at a time."""
    for first in range(0, len(part.windows), batch_size):
        yield torch.from_numpy(part.windows[first : first + batch_size].astype(np.int64))
