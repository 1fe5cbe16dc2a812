"""Making every layer wider: pure functions on fp32 weights. Knows nothing of depth.

`d` and `D` are the widths of the residual stream before and after, r = D / d.

zero_pad (Gesmundo and Maile 2023, arXiv 2308.06103; the eps is ours): the stream becomes [x, 0].
RMS([x, 0]) = RMS(x) sqrt(d / D), so gains are multiplied by sqrt(d / D) and eps by d / D. Nothing
writes into the new channels yet, nothing new writes into the old ones, and the rest is random: it
gets gradients as soon as the writers have moved. It is as large as the old weights: beside trained
units, new ones of N(0, 0.02) are so quiet that Muon, which moves a matrix as a whole, never gets to
what reads them (training/LOG.md).

clone (HyperCloning, arXiv 2409.12903; uneven split: LEMON, arXiv 2310.07999): the stream becomes
[x, x, ..]. RMS([x, x]) = RMS(x): gains are repeated and eps stays. A row over r copies of its input
is [c1 W, c2 W, ..] with shares c of sum 1. Heads and SwiGLU units are repeated as whole blocks; the
matrix that reads them shares out in the same way, so hidden size, heads and intermediate size may
each grow by a whole factor of its own. A tied output matrix reads r copies as well, but is the
embedding: there the final gain takes the shares.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from stentor.loading import LlamaShape, tensor_shapes_of
from training.fresh_weights import (
    EMBEDDING,
    FINAL_NORM,
    WRITERS,
    Weights,
    fresh_tensor,
    fresh_weights,
    normal,
)

SYMMETRY_BREAKS = ("none", "noise", "uneven")
# Noise of a tenth of the power of what it is added to (10 dB), as in HyperCloning.
NOISE_AMPLITUDE = 10 ** (-10 / 20)
UNEVEN_SHARE = 0.35  # of the first of two copies


@dataclass(frozen=True)
class Draw:
    """What is random in a growth, and how the copies of a clone are told apart."""

    generator: torch.Generator
    symmetry_break: str = "noise"


@dataclass(frozen=True)
class WidthStrategy:
    """One way to widen. `grow(weights, source, target, draw)` returns weights of `target`.

    `problems` names what `target` must not be; `learning_rate_factor` is what the learning rate of
    the source should be multiplied by.
    """

    grow: Callable[[Weights, LlamaShape, LlamaShape, Draw], Weights]
    is_exact: bool
    summary: str
    scales_eps: bool = False
    keeps_weights: bool = True
    problems: Callable[[LlamaShape, LlamaShape], list[str]] = lambda _source, _target: []
    learning_rate_factor: Callable[[LlamaShape, LlamaShape], float] = lambda _source, _target: 1.0


def zero_pad(weights: Weights, source: LlamaShape, target: LlamaShape, draw: Draw) -> Weights:
    """Put the old weights top-left; zeros wherever new parts would write into old ones."""
    gain = math.sqrt(source.hidden_size / target.hidden_size)
    grown: Weights = {}
    for name, size in tensor_shapes_of(target).items():
        old = weights[name]
        if old.dim() == 1:
            new = torch.full(size, float(old.mean()), dtype=old.dtype)
        elif name.endswith(WRITERS) or name == EMBEDDING:
            new = torch.zeros(size, dtype=old.dtype)
        else:
            new = normal(size, draw.generator, old.dtype, std=_rms(old))
        new = _with_corner(new, old)
        grown[name] = new * gain if old.dim() == 1 else new
    return grown


def slice_copy(weights: Weights, source: LlamaShape, target: LlamaShape, draw: Draw) -> Weights:
    """Copy the overlap and leave the rest random (what Stentor-Big's card describes)."""
    return {
        name: _with_corner(fresh_tensor(size, draw.generator, weights[name].dtype), weights[name])
        for name, size in tensor_shapes_of(target).items()
    }


def slice_rescaled(weights: Weights, source: LlamaShape, target: LlamaShape, draw: Draw) -> Weights:
    """Copy the overlap, and take back what the wider norms would add to every branch.

    The new channels are small at first, so RMSNorm divides by too little, by sqrt(d / D).
    """
    gain = math.sqrt(source.hidden_size / target.hidden_size)
    grown = slice_copy(weights, source, target, draw)
    return {name: new * gain if new.dim() == 1 else new for name, new in grown.items()}


def scratch(weights: Weights, source: LlamaShape, target: LlamaShape, draw: Draw) -> Weights:
    """Keep nothing: the control that every growth has to beat."""
    return fresh_weights(target, draw.generator, weights[EMBEDDING].dtype)


def clone(weights: Weights, source: LlamaShape, target: LlamaShape, draw: Draw) -> Weights:
    """Repeat everything, and share every sum out over the copies it now runs over."""
    grown: Weights = {}
    for name, size in tensor_shapes_of(target).items():
        old = weights[name]
        if name == EMBEDDING:
            grown[name] = old.repeat(1, size[1] // old.shape[1])
        elif old.dim() == 2:
            grown[name] = _clone_matrix(old, size, draw)
        elif name == FINAL_NORM and target.is_tied:
            shares = shares_of(size[0] // old.shape[0], draw.symmetry_break)
            grown[name] = torch.cat([old * share for share in shares])
        else:
            grown[name] = old.repeat(size[0] // old.shape[0])
    return grown


def shares_of(num_copies: int, symmetry_break: str) -> list[float]:
    """Return the share of each copy, of sum 1: equal, or evenly spread from 0.35 to 0.65.

    `uneven` gives 0.35 and 0.65 to two copies and, for more of them, as many different shares.
    """
    if symmetry_break != "uneven" or num_copies == 1:
        return [1 / num_copies] * num_copies
    step = (1 - 2 * UNEVEN_SHARE) / (num_copies - 1)
    return [(UNEVEN_SHARE + step * copy) * 2 / num_copies for copy in range(num_copies)]


def _clone_matrix(old: torch.Tensor, size: tuple[int, ...], draw: Draw) -> torch.Tensor:
    """Return rows repeated, and columns repeated in shares; noise differs from row to row block."""
    num_rows, num_columns = size[0] // old.shape[0], size[1] // old.shape[1]
    shares = shares_of(num_columns, draw.symmetry_break)
    even = torch.cat([old * share for share in shares], dim=1)
    if draw.symmetry_break != "noise" or num_columns == 1:
        return even.repeat(num_rows, 1)
    return torch.cat([even + _silent_noise(old, num_columns, draw) for _ in range(num_rows)])


def _silent_noise(old: torch.Tensor, num_copies: int, draw: Draw) -> torch.Tensor:
    """Return (rows, columns of all copies) of noise whose sum over the copies is zero."""
    noise = normal((num_copies, *old.shape), draw.generator, old.dtype, std=1.0)
    # Taking the mean away takes 1 / copies of the variance with it.
    noise = (noise - noise.mean(dim=0)) / math.sqrt(1 - 1 / num_copies)
    return torch.cat(list(noise * (NOISE_AMPLITUDE * _rms(old) / num_copies)), dim=1)


def _rms(weights: torch.Tensor) -> float:
    """Return the root mean square."""
    return float(weights.square().mean().sqrt())


def _clone_problems(source: LlamaShape, target: LlamaShape) -> list[str]:
    """Return which sizes are no whole multiple."""
    problems = []
    for name in ("hidden_size", "intermediate_size", "num_heads"):
        before, after = getattr(source, name), getattr(target, name)
        if after % before:
            below = after - after % before
            problems.append(
                f"clone repeats whole parts, but {name} {after} is {after / before:.3g} times "
                f"{before} (take {below} or {below + before}, or zero_pad, which takes any size)"
            )
    return problems


def _with_corner(new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Return `new` with `old` written over its top-left corner."""
    new[tuple(slice(0, length) for length in old.shape)] = old
    return new


WIDTHS: dict[str, WidthStrategy] = {
    "zero_pad": WidthStrategy(
        zero_pad, True, "old weights top-left, new channels start silent", scales_eps=True
    ),
    "clone": WidthStrategy(
        clone,
        True,
        "everything repeated, sums shared out over the copies",
        problems=_clone_problems,
        # Each sum runs over r copies that all move: r times the step (as in muP's rule).
        learning_rate_factor=lambda source, target: source.hidden_size / target.hidden_size,
    ),
    "slice_rescaled": WidthStrategy(
        slice_rescaled, False, "old weights top-left, the rest random, norm gains corrected"
    ),
    "slice": WidthStrategy(slice_copy, False, "old weights top-left, the rest random"),
    "scratch": WidthStrategy(
        scratch, False, "nothing kept: a new model of the larger shape", keeps_weights=False
    ),
}
