"""Adding layers: the lists, what becomes of the weights, and where gradients arrive."""

from dataclasses import replace

import pytest
import torch
from growth_shapes import SMALL, random_weights, some_tokens

from training.checkpoint import build_model
from training.depths import DEPTHS, describe_layers
from training.expansion import Weights, expand
from training.fresh_weights import LAYER_PREFIX, WRITERS, layer_of

INTERLEAVED = "0 1 2 2' 3 4 4' 5 6 6' 7 8 9 9' 10 11 11' 12 13 13' 14 15 16 16' 17 18 18' 19 20 20'"
BACK = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 10' 11' 12' 13' 14' 15' 16' 17' 18' 19 20"


def deeper(depth: str, num_layers: int, before: int = 2) -> tuple[Weights, Weights]:
    source = replace(SMALL, num_layers=before)
    weights = random_weights(source)
    target = replace(source, num_layers=num_layers)
    after, _ = expand(weights, source, target, width="zero_pad", depth=depth, seed=1)
    return weights, after


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        ("identity_interleave", INTERLEAVED),
        ("copy_interleave", INTERLEAVED),
        ("identity_back", BACK),
        ("copy_block_back", BACK),
        ("random_top", " ".join([*map(str, range(21)), *["new"] * 9])),
    ],
)
def test_the_layer_lists_of_21_to_30(depth: str, expected: str) -> None:
    """Those of the growth notes, section 4."""
    assert describe_layers(DEPTHS[depth].layers(21, 30)) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1, 3, "0 0' 0'"),
        (2, 3, "0 0' 1"),
        (7, 10, "0 1 2 3 4 2' 3' 4' 5 6"),
        (5, 9, "0 1 2 2' 0' 1' 2' 3 4"),  # more new layers than the block has
    ],
)
def test_a_block_for_other_depths(before: int, after: int, expected: str) -> None:
    assert describe_layers(DEPTHS["identity_back"].layers(before, after)) == expected


@pytest.mark.parametrize("depth", list(DEPTHS))
def test_every_list_keeps_the_old_layers_in_order_and_starts_with_the_first(depth: str) -> None:
    for before in range(1, 12):
        for after in range(before, 40):
            layers = DEPTHS[depth].layers(before, after)
            assert len(layers) == after
            assert [o.source for o in layers if not o.is_new] == list(range(before))
            assert not layers[0].is_new, "never at the front"
            assert all(o.source is None or 0 <= o.source < before for o in layers)


@pytest.mark.parametrize("depth", list(DEPTHS))
def test_layers_come_from_where_the_list_says(depth: str) -> None:
    before, after = deeper(depth, 7, before=3)
    layers = DEPTHS[depth].layers(3, 7)
    for name, tensor in after.items():
        index, part = layer_of(name)
        if index is None:
            assert torch.equal(tensor, before[name]), name
            continue
        origin = layers[index]
        if origin.source is None:
            is_gain = tensor.dim() == 1
            assert bool((tensor == 1).all()) if is_gain else 0.01 < float(tensor.std()) < 0.03
        elif origin.is_new and DEPTHS[depth].is_exact and part in WRITERS:
            assert bool((tensor == 0).all()), name
        else:
            assert torch.equal(tensor, before[f"{LAYER_PREFIX}{origin.source}.{part}"]), name


def test_copies_share_no_memory() -> None:
    """Two parameters over one storage would be updated twice a step, and not be saved."""
    _, after = deeper("copy_interleave", 6)
    assert len({tensor.data_ptr() for tensor in after.values()}) == len(after)


def test_a_silent_layer_first_learns_to_write() -> None:
    """At step 0 only its two writers have a gradient; after their first update all of it has."""
    _, after = deeper("identity_interleave", 3)
    model = build_model(replace(SMALL, num_layers=3), after, 0)
    tokens = some_tokens(SMALL)
    silent = [
        index
        for index, origin in enumerate(DEPTHS["identity_interleave"].layers(2, 3))
        if origin.is_new
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    alive: list[set[str]] = []
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(model(input_ids=tokens, labels=tokens).loss)
        alive.append(
            {
                layer_of(name)[1]
                for name, parameter in model.named_parameters()
                if layer_of(name)[0] in silent
                and parameter.grad is not None
                and bool((parameter.grad != 0).any())
            }
        )
        optimizer.step()
    assert alive[0] == set(WRITERS)
    assert len(alive[1]) == 9
