"""Growing as a whole: the plan, seeds, refusals, and that every new part learns.

Exactness is in test_exact_growth.py.
"""

from dataclasses import replace

import pytest
import torch
from growth_shapes import (
    SMALL,
    random_weights,
    some_tokens,
)

from stentor.errors import OptionError, TrainingError
from stentor.loading import LlamaShape
from training.checkpoint import build_model
from training.expansion import (
    DEPTHS,
    WIDTHS,
    check_target,
    expand,
    grown_shape,
    is_exact,
    plan_growth,
)
from training.fresh_weights import EMBEDDING
from training.settings import ExpandSettings
from training.widths import SYMMETRY_BREAKS


def test_the_seed_decides_the_new_weights() -> None:
    target = grown_shape(SMALL, 32, 48, 3, 4, vocab_size=50)
    weights = random_weights(SMALL)
    for width in WIDTHS:
        names = {"width": width, "depth": "random_top"}
        first, _ = expand(weights, SMALL, target, seed=1, **names)
        again, _ = expand(weights, SMALL, target, seed=1, **names)
        other, _ = expand(weights, SMALL, target, seed=2, **names)
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


def test_every_new_part_comes_alive() -> None:
    """Silent is not dead: after two updates each tensor has moved in its old and its new part.

    One update moves the writers and the embedding; only then do gradients reach what feeds them.
    """
    target = grown_shape(SMALL, 32, 48, 5, 4)
    after, shape = expand(
        random_weights(SMALL),
        SMALL,
        target,
        width="zero_pad",
        depth="identity_interleave",
        seed=1,
    )
    model = build_model(shape, after, 0)
    tokens = some_tokens(SMALL)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        torch.autograd.backward(model(input_ids=tokens, labels=tokens).loss)
        optimizer.step()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None and bool(gradient.isfinite().all()), name
        for corner in corners(gradient):
            assert bool((corner != 0).any()), f"{name}: a part of it cannot learn"


def corners(gradient: torch.Tensor) -> list[torch.Tensor]:
    """Return old and new parts: halves of a vector, quarters of a matrix (all sizes doubled)."""
    rows, half = gradient.shape[0] // 2, gradient.shape[-1] // 2
    if gradient.dim() == 1:
        return [gradient[:rows], gradient[rows:]]
    if gradient.shape[0] == SMALL.vocab_size:  # the vocabulary does not grow
        return [gradient[:, :half], gradient[:, half:]]
    return [
        part
        for side in (gradient[:rows], gradient[rows:])
        for part in (side[:, :half], side[:, half:])
    ]


def test_the_plan_says_what_is_promised() -> None:
    target = grown_shape(SMALL, 32, 48, 4, 4)
    names = {"depth": "identity_interleave", "seed": 3}
    plan = plan_growth(SMALL, target, width="clone", **names)  # type: ignore[arg-type]
    assert (plan.claims_exact, plan.symmetry_break, plan.learning_rate_factor) == (
        True,
        "noise",
        0.5,
    )
    assert [origin.source for origin in plan.layers] == [0, 0, 1, 1]
    fresh = plan_growth(SMALL, target, width="scratch", **names)  # type: ignore[arg-type]
    assert not fresh.claims_exact and fresh.symmetry_break is None
    assert all(origin.is_new and origin.source is None for origin in fresh.layers)
    assert not is_exact("slice", "identity_interleave")
    assert not is_exact("zero_pad", "random_top")
    assert not is_exact("zero_pad", "copy_block_back")


GROUPED = replace(SMALL, num_key_value_heads=1)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (SMALL, grown_shape(SMALL, 8, 24, 2, 1), "hidden_size 8 is below 16"),
        (
            SMALL,
            grown_shape(SMALL, 16, 8, 1, 2),
            "intermediate_size 8 is below 24; num_layers 1 is below 2",
        ),
        (SMALL, grown_shape(SMALL, 16, 24, 2, 2, 47), "vocab_size 47 is below 48"),
        (SMALL, grown_shape(SMALL, 32, 24, 2, 2), "the head dimension would change from 8 to 16"),
        (
            GROUPED,
            grown_shape(GROUPED, 24, 24, 2, 3),
            r"2 heads share 1 key-value heads, so 3 heads cannot share 1 \(.* multiple of 2",
        ),
        (SMALL, replace(SMALL, is_tied=False), "is_tied must stay"),
        (SMALL, replace(SMALL, rope_theta=5e5, context_length=99), "context_length .*; rope_theta"),
    ],
)
@pytest.mark.parametrize("width", list(WIDTHS))
def test_impossible_growth_is_refused_with_every_reason(
    source: LlamaShape, target: LlamaShape, message: str, width: str
) -> None:
    with pytest.raises(TrainingError, match=f"This growth is not possible: .*{message}"):
        expand({}, source, target, width=width, depth="identity_interleave", seed=0)


def test_a_clone_of_one_and_a_half_is_refused_with_the_sizes_that_would_do() -> None:
    target = grown_shape(SMALL, 24, 40, 2, 3)
    check_target(SMALL, target)
    with pytest.raises(
        TrainingError,
        match=r"hidden_size 24 is 1.5 times 16 \(take 16 or 32, or zero_pad, which takes any size"
        r"\); .*intermediate_size 40 is 1.67 times 24 .*; .*num_heads 3 is 1.5 times 2",
    ):
        expand({}, SMALL, target, width="clone", depth="identity_interleave", seed=0)


def test_growth_needs_fp32_and_known_strategies() -> None:
    target = grown_shape(SMALL, 32, 48, 3, 4)
    weights = random_weights(SMALL)
    halves = {name: tensor.bfloat16() for name, tensor in weights.items()}
    names = {"width": "zero_pad", "depth": "identity_interleave"}
    with pytest.raises(TrainingError, match="Growth needs fp32 weights; got bfloat16"):
        expand(halves, SMALL, target, seed=0, **names)
    mixed = {**weights, EMBEDDING: halves[EMBEDDING]}
    with pytest.raises(TrainingError, match="got bfloat16, float32"):
        expand(mixed, SMALL, target, seed=0, **names)
    for wrong, near in (("zeropad", "zero_pad"), ("slize", "slice")):
        with pytest.raises(OptionError, match=f"Did you mean '{near}'"):
            expand({}, SMALL, target, seed=0, **{**names, "width": wrong})
    with pytest.raises(OptionError, match="Did you mean 'random_top'"):
        expand({}, SMALL, target, seed=0, **{**names, "depth": "random"})
    with pytest.raises(OptionError, match="No symmetry break is called 'loud'"):
        expand({}, SMALL, target, seed=0, symmetry_break="loud", **names)


def test_every_strategy_can_be_chosen_in_a_recipe() -> None:
    fields = ExpandSettings.__dataclass_fields__
    for name, table in (
        ("width", tuple(WIDTHS)),
        ("depth", tuple(DEPTHS)),
        ("symmetry_break", SYMMETRY_BREAKS),
    ):
        assert fields[name].metadata["knob"].choices == table
