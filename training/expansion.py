"""Growing a Llama: checks, and the order of the steps. Pure functions on a shape and its weights.

Vocabulary first, then width (training/widths.py), then depth (training/depths.py); the three are
independent. A growth that claims to keep the function is checked by the caller
(training/growth_report.py) and refused when it does not. No device, no files.
"""

from dataclasses import dataclass, replace

import torch

from stentor.errors import TrainingError
from stentor.knobs import choose
from stentor.loading import LlamaShape
from training.depths import DEPTHS, LayerOrigin, Layers, deepen
from training.fresh_weights import Weights, with_vocabulary
from training.widths import SYMMETRY_BREAKS, WIDTHS, Draw

__all__ = [
    "DEPTHS",
    "WIDTHS",
    "GrowthPlan",
    "Weights",
    "check_target",
    "expand",
    "grown_shape",
    "is_exact",
    "plan_growth",
]

# fp64 is for proofs; in half precision the sums would not stay exact.
PRECISIONS = (torch.float32, torch.float64)
SIZES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "vocab_size")
KEPT = ("context_length", "rope_theta", "is_tied")


@dataclass(frozen=True)
class GrowthPlan:
    """How a model is grown, and what that promises.

    `symmetry_break` is None where nothing is cloned. `learning_rate_factor`: what the learning rate
    that suits the source should be multiplied by.
    """

    width: str
    depth: str
    symmetry_break: str | None
    seed: int
    claims_exact: bool
    learning_rate_factor: float
    layers: Layers


def grown_shape(
    source: LlamaShape,
    hidden_size: int,
    intermediate_size: int,
    num_layers: int,
    num_heads: int,
    vocab_size: int | None = None,
) -> LlamaShape:
    """Return the shape of the grown model before any strategy changed its eps.

    Heads share their width as in the source: `hidden_size / num_heads` each, or the head dimension
    that the source states of its own; as many queries to a key-value head as there.
    """
    is_own = source.head_dim * source.num_heads != source.hidden_size
    return replace(
        source,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=max(1, num_heads * source.num_key_value_heads // source.num_heads),
        head_dim=source.head_dim if is_own else hidden_size // num_heads,
        vocab_size=source.vocab_size if vocab_size is None else vocab_size,
    )


def check_target(source: LlamaShape, target: LlamaShape, width: str = "zero_pad") -> None:
    """Raise TrainingError, naming every reason, when `target` cannot be grown from `source`."""
    problems = [
        f"{name} {getattr(target, name)} is below {getattr(source, name)}"
        for name in SIZES
        if getattr(target, name) < getattr(source, name)
    ]
    if target.head_dim != source.head_dim:
        problems.append(
            f"the head dimension would change from {source.head_dim} to {target.head_dim} "
            "(hidden size / heads must stay the same)"
        )
    if target.num_heads * source.num_key_value_heads != (
        target.num_key_value_heads * source.num_heads
    ):
        problems.append(
            f"{source.num_heads} heads share {source.num_key_value_heads} key-value heads, so "
            f"{target.num_heads} heads cannot share {target.num_key_value_heads} (heads must be a "
            f"multiple of {source.num_heads // source.num_key_value_heads})"
        )
    problems += [f"{name} must stay" for name in KEPT if _differs(name, source, target)]
    if not problems:
        problems = choose(WIDTHS, width, "width strategy").problems(source, target)
    if problems:
        raise TrainingError("This growth is not possible: " + "; ".join(problems) + ".")


def _differs(name: str, source: LlamaShape, target: LlamaShape) -> bool:
    return bool(getattr(source, name) != getattr(target, name))


def is_exact(width: str, depth: str) -> bool:
    """Tell whether the two strategies together claim to keep the function."""
    return WIDTHS[width].is_exact and DEPTHS[depth].is_exact


def plan_growth(
    source: LlamaShape,
    target: LlamaShape,
    *,
    width: str,
    depth: str,
    seed: int,
    symmetry_break: str = "noise",
) -> GrowthPlan:
    """Check a growth without doing it. A width that keeps nothing makes every layer a new one.

    Raises:
        OptionError: there is no such strategy.
        TrainingError: `target` is smaller, changes the head dimension, or is not for this strategy.
    """
    widening = choose(WIDTHS, width, "width strategy")
    deepening = choose(DEPTHS, depth, "depth strategy")
    choose(dict.fromkeys(SYMMETRY_BREAKS), symmetry_break, "symmetry break")
    check_target(source, target, width)
    layers = deepening.layers(source.num_layers, target.num_layers)
    return GrowthPlan(
        width=width,
        depth=depth,
        symmetry_break=symmetry_break if width == "clone" else None,
        seed=seed,
        claims_exact=is_exact(width, depth),
        learning_rate_factor=widening.learning_rate_factor(source, target),
        layers=layers if widening.keeps_weights else (LayerOrigin(None, True),) * len(layers),
    )


def expand(
    weights: Weights,
    source: LlamaShape,
    target: LlamaShape,
    *,
    width: str,
    depth: str,
    seed: int,
    symmetry_break: str = "noise",
) -> tuple[Weights, LlamaShape]:
    """Grow fp32 (or fp64) `weights` of shape `source` to `target`; return them with their shape.

    The returned shape differs from `target` only in `rms_norm_eps`; the given tensors stay as they
    are. All that is random follows from `seed`.

    Raises:
        OptionError, TrainingError: as plan_growth; or the weights are in half precision.
    """
    plan = plan_growth(
        source, target, width=width, depth=depth, seed=seed, symmetry_break=symmetry_break
    )
    dtypes = {tensor.dtype for tensor in weights.values()}
    if len(dtypes) != 1 or not dtypes <= set(PRECISIONS):
        named = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise TrainingError(
            f"Growth needs fp32 weights; got {named}: there the sums would not stay exact. Grow "
            "first, then export in the smaller format."
        )
    widening = WIDTHS[width]
    draw = Draw(torch.Generator().manual_seed(seed), symmetry_break)
    ratio = source.hidden_size / target.hidden_size if widening.scales_eps else 1.0
    target = replace(target, rms_norm_eps=source.rms_norm_eps * ratio)
    if not widening.keeps_weights:
        return widening.grow(weights, source, target, draw), target
    weights = with_vocabulary(weights, target.vocab_size, draw.generator)
    wide = replace(target, num_layers=source.num_layers)
    grown = widening.grow(weights, source, wide, draw)
    is_silent = DEPTHS[depth].is_silent
    return deepen(grown, target, plan.layers, draw.generator, is_silent=is_silent), target
