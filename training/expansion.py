"""Growing a Llama: width and depth strategies, pure functions on a shape and its fp32 weights.

Width comes first, then depth; the two are independent. A strategy that claims to keep the function
is checked by the caller (training/growth_report.py) and refused when it does not.

Why `zero_pad` is exact: the residual stream becomes [x, 0]. RMS([x, 0]) = RMS(x) * sqrt(d/D), so
all gains are multiplied by sqrt(d/D) and eps by d/D; whatever writes into the old half of the
stream keeps zeros where it would read a new part. Function-preserving zero padding follows
Gesmundo and Maile (2023, arXiv 2308.06103); the eps correction is ours.
An inserted layer whose `o_proj` and `down_proj` are zero adds nothing to the residual stream
(LLaMA Pro, arXiv 2401.02415), so `identity_interleave` is exact wherever the layer stands.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from stentor.errors import TrainingError
from stentor.knobs import choose
from stentor.loading import LlamaShape, tensor_shapes_of

Weights = dict[str, torch.Tensor]
INITIAL_STD = 0.02
LAYER_PREFIX = "model.layers."
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
# Matrices that write into the residual stream: their rows are residual channels.
WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


@dataclass(frozen=True)
class Strategy:
    """One way to grow. `grow(weights, source, target, generator)` returns weights of `target`."""

    grow: Callable[[Weights, LlamaShape, LlamaShape, torch.Generator], Weights]
    is_exact: bool
    summary: str


def check_target(source: LlamaShape, target: LlamaShape) -> None:
    """Raise TrainingError when `target` is no growth of `source` that keeps the head dimension."""
    problems = [
        f"{name} {getattr(target, name)} is below {getattr(source, name)}"
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads", "vocab_size")
        if getattr(target, name) < getattr(source, name)
    ]
    if target.head_dim != source.head_dim:
        problems.append(
            f"the head dimension would change from {source.head_dim} to {target.head_dim} "
            "(hidden size / heads must stay the same)"
        )
    if source.num_heads != source.num_key_value_heads:
        problems.append("grouped-query attention cannot be grown yet")
    if not source.is_tied:
        problems.append("an untied output matrix cannot be grown yet")
    if problems:
        raise TrainingError("This growth is not possible: " + "; ".join(problems) + ".")


def grown_shape(
    source: LlamaShape, hidden_size: int, intermediate_size: int, num_layers: int, num_heads: int
) -> LlamaShape:
    """Return the shape of the grown model before any strategy changed its eps."""
    return replace(
        source,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=hidden_size // num_heads,
    )


def expand(
    weights: Weights, source: LlamaShape, target: LlamaShape, *, width: str, depth: str, seed: int
) -> tuple[Weights, LlamaShape]:
    """Grow fp32 `weights` of shape `source` to `target`; return them with the final shape.

    The returned shape differs from `target` only in `rms_norm_eps`.

    Raises:
        TrainingError: the target is smaller or changes the head dimension; weights are not fp32.
    """
    check_target(source, target)
    if any(tensor.dtype != torch.float32 for tensor in weights.values()):
        raise TrainingError("Growth needs fp32 weights: in bf16 the sums would not stay exact.")
    width_strategy = choose(WIDTHS, width, "width strategy")
    depth_strategy = choose(DEPTHS, depth, "depth strategy")
    generator = torch.Generator().manual_seed(seed)
    if width == "zero_pad":
        ratio = source.hidden_size / target.hidden_size
        target = replace(target, rms_norm_eps=source.rms_norm_eps * ratio)
    wide = replace(target, num_layers=source.num_layers)
    grown = width_strategy.grow(weights, source, wide, generator)
    grown = depth_strategy.grow(grown, wide, target, generator)
    return grown, target


def is_exact(width: str, depth: str) -> bool:
    """Tell whether the two strategies together claim to keep the function."""
    return WIDTHS[width].is_exact and DEPTHS[depth].is_exact


def zero_pad(
    weights: Weights, source: LlamaShape, target: LlamaShape, generator: torch.Generator
) -> Weights:
    """Put the old weights top-left; zeros wherever new parts would write into old ones."""
    gain = math.sqrt(source.hidden_size / target.hidden_size)
    grown: Weights = {}
    for name, size in tensor_shapes_of(target).items():
        old = weights[name]
        if old.dim() == 1:
            new_gain = torch.full(size, float(old.mean()))
            new_gain[: old.shape[0]] = old
            grown[name] = new_gain * gain
            continue
        # New rows of a writer and new embedding columns would disturb the [x, 0] stream.
        is_zero = name.endswith(WRITERS) or name == "model.embed_tokens.weight"
        new = torch.zeros(size) if is_zero else _normal(size, generator)
        new[: old.shape[0], : old.shape[1]] = old
        grown[name] = new
    return grown


def slice_copy(
    weights: Weights, source: LlamaShape, target: LlamaShape, generator: torch.Generator
) -> Weights:
    """Copy the overlap and leave the rest random (what Stentor-Big's card describes)."""
    grown: Weights = {}
    for name, size in tensor_shapes_of(target).items():
        old = weights[name]
        new = torch.ones(size) if old.dim() == 1 else _normal(size, generator)
        new[tuple(slice(0, length) for length in old.shape)] = old
        grown[name] = new
    return grown


def identity_interleave(
    weights: Weights, source: LlamaShape, target: LlamaShape, generator: torch.Generator
) -> Weights:
    """Spread the new layers evenly; each copies the layer below it, with zero writers."""
    grown = _without_layers(weights)
    for index, (origin, is_new) in enumerate(interleaved_layers(source, target)):
        for name, tensor in _layer(weights, origin).items():
            is_silent = is_new and name in WRITERS
            grown[f"{LAYER_PREFIX}{index}.{name}"] = (
                torch.zeros_like(tensor) if is_silent else tensor.clone()
            )
    return grown


def random_top(
    weights: Weights, source: LlamaShape, target: LlamaShape, generator: torch.Generator
) -> Weights:
    """Put fresh random layers on top (what Stentor-Big's card describes)."""
    grown = dict(weights)
    for index in range(source.num_layers, target.num_layers):
        for name, tensor in _layer(weights, 0).items():
            fresh = torch.ones_like(tensor) if name in NORMS else _normal(tensor.shape, generator)
            grown[f"{LAYER_PREFIX}{index}.{name}"] = fresh
    return grown


def interleaved_layers(source: LlamaShape, target: LlamaShape) -> list[tuple[int, bool]]:
    """Return, for every layer of the target, the source layer it comes from and whether it is new.

    21 -> 30 gives 0 1 2 2' 3 4 4' 5 6 6' ...: new layer i stands after source layer
    ceil((i + 1) * 21 / 9) - 1.
    """
    num_new = target.num_layers - source.num_layers
    after = [math.ceil((i + 1) * source.num_layers / num_new) - 1 for i in range(num_new)]
    return [
        (origin, is_new)
        for origin in range(source.num_layers)
        for is_new in [False] + [True] * after.count(origin)
    ]


def _layer(weights: Weights, index: int) -> Weights:
    """Return one layer's tensors by their names inside the layer."""
    prefix = f"{LAYER_PREFIX}{index}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.items()
        if name.startswith(prefix)
    }


def _without_layers(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(LAYER_PREFIX)}


def _normal(size: tuple[int, ...] | torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(size, generator=generator) * INITIAL_STD


WIDTHS: dict[str, Strategy] = {
    "zero_pad": Strategy(zero_pad, True, "old weights top-left, new channels start silent"),
    "slice": Strategy(slice_copy, False, "old weights top-left, the rest random"),
}
DEPTHS: dict[str, Strategy] = {
    "identity_interleave": Strategy(
        identity_interleave, True, "copies with zero writers, spread evenly"
    ),
    "random_top": Strategy(random_top, False, "fresh random layers on top"),
}
