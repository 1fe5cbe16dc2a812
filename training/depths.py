"""Adding layers: which source layer each layer of the grown model comes from. Knows no widths.

A layer whose `o_proj` and `down_proj` are zero adds nothing to the residual stream (LLaMA Pro,
arXiv 2401.02415), so silent copies are exact wherever they stand, and live ones are not. Only the
writers are zero: zero norm gains, or zeros in front of the SwiGLU, would stay zero for ever.
Where copies go follows G_stack (arXiv 2405.15319): never at the front, long unbroken runs, the last
layers left on top.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stentor.loading import LlamaShape, tensor_shapes_of
from training.fresh_weights import EMBEDDING, LAYER_PREFIX, WRITERS, Weights, fresh_tensor, layer_of

# Of a block that is repeated, as many layers of the source stay above it.
LAYERS_ON_TOP = 2


@dataclass(frozen=True)
class LayerOrigin:
    """Where a layer comes from: a source layer (from 0), or None for random weights."""

    source: int | None
    is_new: bool


Layers = tuple[LayerOrigin, ...]


@dataclass(frozen=True)
class DepthStrategy:
    """One way to add layers. `layers(before, after)` lists the origins of `after` layers."""

    layers: Callable[[int, int], Layers]
    is_silent: bool
    summary: str

    @property
    def is_exact(self) -> bool:
        """Tell whether the new layers claim to change nothing."""
        return self.is_silent


def interleave(before: int, after: int) -> Layers:
    """Spread the new layers evenly; each is a copy of the layer below it.

    21 -> 30 gives 0 1 2 2' 3 4 4' 5 6 6' ..: new layer i stands after source layer
    ceil((i + 1) * 21 / 9) - 1.
    """
    num_new = after - before
    below = [math.ceil((i + 1) * before / num_new) - 1 for i in range(num_new)]
    return tuple(
        LayerOrigin(source, is_new)
        for source in range(before)
        for is_new in (False, *[True] * below.count(source))
    )


def block_back(before: int, after: int) -> Layers:
    """Repeat the block of layers below the last two, as often as needed.

    21 -> 30 gives 0 .. 18, 10' .. 18', 19, 20. More new layers than there are below the last two go
    round: 5 -> 9 gives 0 1 2, 2' 0' 1' 2', 3 4. One or two layers keep one, or none, on top.
    """
    num_below = before - min(LAYERS_ON_TOP, before - 1)
    num_new = after - before
    repeated = [(num_below - num_new + i) % num_below for i in range(num_new)]
    return (
        *(LayerOrigin(source, False) for source in range(num_below)),
        *(LayerOrigin(source, True) for source in repeated),
        *(LayerOrigin(source, False) for source in range(num_below, before)),
    )


def fresh_on_top(before: int, after: int) -> Layers:
    """Put random layers on top (what Stentor-Big's card describes)."""
    old = (LayerOrigin(source, False) for source in range(before))
    return (*old, *[LayerOrigin(None, True)] * (after - before))


def deepen(
    weights: Weights,
    target: LlamaShape,
    layers: Sequence[LayerOrigin],
    generator: torch.Generator,
    *,
    is_silent: bool,
) -> Weights:
    """Return weights of `target`, whose layers come from where `layers` says."""
    dtype = weights[EMBEDDING].dtype
    grown: Weights = {}
    for name, size in tensor_shapes_of(target).items():
        index, part = layer_of(name)
        if index is None:
            grown[name] = weights[name]
            continue
        origin = layers[index]
        if origin.source is None:
            grown[name] = fresh_tensor(size, generator, dtype)
        elif origin.is_new and is_silent and part in WRITERS:
            grown[name] = torch.zeros(size, dtype=dtype)
        else:
            grown[name] = weights[f"{LAYER_PREFIX}{origin.source}.{part}"].clone()
    return grown


def describe_layers(layers: Sequence[LayerOrigin]) -> str:
    """Return the list in one line: `0 1 1' 2 new` has a copy of layer 1 and a random one on top."""
    marks = {False: "", True: "'"}
    return " ".join(
        "new" if origin.source is None else f"{origin.source}{marks[origin.is_new]}"
        for origin in layers
    )


DEPTHS: dict[str, DepthStrategy] = {
    "identity_interleave": DepthStrategy(interleave, True, "silent copies, spread evenly"),
    "identity_back": DepthStrategy(block_back, True, "a silent copy of the block below the top"),
    "copy_block_back": DepthStrategy(block_back, False, "a live copy of the block below the top"),
    "copy_interleave": DepthStrategy(interleave, False, "live copies, spread evenly"),
    "random_top": DepthStrategy(fresh_on_top, False, "fresh random layers on top"),
}
