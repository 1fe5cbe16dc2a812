"""SwiGLU units that are dead: too quiet to be read, and too little read to become louder.

A unit is a row of `gate_proj` and of `up_proj`, and the column of `down_proj` that reads it. The
column learns by what the rows say, and the rows by what the column passes back: where both are next
to nothing, neither learns. A unit that only is not read yet, as after an exact growth, is not dead.
Knows no run.
"""

from collections.abc import Mapping

import torch

from training.fresh_weights import layer_of

GATE, UP, DOWN = (f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
# Of the largest norm in the layer; what a unit says is a product of two rows. Of the half of the
# demo pair's big model that died, the rows have 0.02 and the columns 0.01 (training/LOG.md).
QUIET_ROWS, QUIET_COLUMN = 0.1**2, 0.1
# A smaller share is no reason to trouble anyone.
WORTH_A_WARNING = 0.05


def dead_units(weights: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return how many SwiGLU units of all layers are dead, and how many there are.

    `weights`: a Llama's tensors by name; gate and up (intermediate, hidden), down the other way.
    """
    num_dead = num_units = 0
    for name in weights:
        if layer_of(name)[1] == GATE:
            is_dead = _is_dead(weights, name.removesuffix(GATE))
            num_dead += int(is_dead.sum())
            num_units += len(is_dead)
    return num_dead, num_units


def _is_dead(weights: Mapping[str, torch.Tensor], layer: str) -> torch.Tensor:
    """Return (intermediate,) flags of a layer's units."""
    says = weights[layer + GATE].norm(dim=1) * weights[layer + UP].norm(dim=1)
    is_read = weights[layer + DOWN].norm(dim=0)
    return torch.logical_and(
        says <= QUIET_ROWS * says.max(), is_read <= QUIET_COLUMN * is_read.max()
    )


def warning_of(weights: Mapping[str, torch.Tensor]) -> str | None:
    """Return what whoever trained these weights should know, or None."""
    num_dead, num_units = dead_units(weights)
    if not num_units or num_dead < WORTH_A_WARNING * num_units:
        return None
    return (
        f"{num_dead:,} of {num_units:,} SwiGLU units are dead: they say next to nothing, nothing "
        "reads them, and so they learn no more. If the model was grown, go back to the one before "
        "and grow it with zero_pad, whose new units are as loud as the old, or train with AdamW."
    )
