"""Growth that claims to keep the function keeps it: random shapes, full size, stock loading."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from growth_shapes import (
    SMALL,
    STENTOR_30M,
    logits_of,
    norms_in_double,
    random_growth,
    random_weights,
    some_tokens,
)
from transformers import LlamaForCausalLM

from stentor.loading import LlamaShape, open_checkpoint_folder, read_weights, tensor_shapes_of
from training.checkpoint import save_checkpoint
from training.expansion import DEPTHS, WIDTHS, Weights, expand, grown_shape, is_exact
from training.growth_report import EXACT_TOLERANCE
from training.settings import ExpandSettings
from training.stages.expand import grow
from training.widths import SYMMETRY_BREAKS

EXACT_WIDTHS = [name for name, strategy in WIDTHS.items() if strategy.is_exact]
EXACT_DEPTHS = [name for name, strategy in DEPTHS.items() if strategy.is_exact]
NUM_GROWTHS = 12  # random shapes per strategy


def largest_change(
    before: Weights,
    source: LlamaShape,
    after: Weights,
    shape: LlamaShape,
    tokens: torch.Tensor | None = None,
) -> float:
    """Return max |delta logit| of the old tokens / max |logit|; both models are loaded strictly."""
    tokens = some_tokens(source) if tokens is None else tokens
    old = logits_of(before, source, tokens)
    new = logits_of(after, shape, tokens)[..., : source.vocab_size]
    return float((old - new).abs().max() / old.abs().max())


@pytest.mark.parametrize("width", EXACT_WIDTHS)
def test_exact_growth_of_random_shapes_is_exact(width: str) -> None:
    """Tied and untied, grouped queries, own head sizes, one to five more layers, new tokens.

    In fp64 with a norm in fp64, where a wrong eps or gain cannot hide behind rounding.
    """
    chance = random.Random(width)
    for number in range(NUM_GROWTHS):
        source, target = random_growth(chance, is_whole=width == "clone")
        before = random_weights(source, seed=number, dtype=torch.float64)
        after, shape = expand(
            before,
            source,
            target,
            width=width,
            depth=chance.choice(EXACT_DEPTHS),
            seed=number,
            symmetry_break=chance.choice(SYMMETRY_BREAKS),
        )
        assert {name: tuple(value.shape) for name, value in after.items()} == (
            tensor_shapes_of(target)
        )
        with norms_in_double():
            assert largest_change(before, source, after, shape) <= 1e-10, (source, target)


@pytest.mark.parametrize("depth", list(DEPTHS))
@pytest.mark.parametrize("width", list(WIDTHS))
def test_every_growth_of_random_shapes_loads_strictly(width: str, depth: str) -> None:
    """And in fp32 the exact ones are exact; the others move something once there is growth."""
    chance = random.Random(f"{width} {depth}")
    for number in range(3):
        source, target = random_growth(chance, is_whole=width == "clone")
        before = random_weights(source, seed=number)
        copies = {name: tensor.clone() for name, tensor in before.items()}
        after, shape = expand(before, source, target, width=width, depth=depth, seed=number)
        change = largest_change(before, source, after, shape)
        if is_exact(width, depth):
            assert change <= EXACT_TOLERANCE, (source, target)
        assert change < float("inf")
        assert all(torch.equal(before[name], copies[name]) for name in before)
        factor = source.hidden_size / target.hidden_size if width == "zero_pad" else 1
        assert shape == replace(target, rms_norm_eps=source.rms_norm_eps * factor)


@pytest.mark.parametrize("symmetry_break", SYMMETRY_BREAKS)
@pytest.mark.parametrize("width", EXACT_WIDTHS)
def test_21_to_30_layers_in_double(width: str, symmetry_break: str) -> None:
    """A tiny Stentor-30M: every size doubles, 21 layers become 30."""
    source = replace(SMALL, num_layers=21)
    target = grown_shape(source, 32, 48, 30, 4, vocab_size=51)
    before = random_weights(source, std=0.1, dtype=torch.float64)
    after, shape = expand(
        before,
        source,
        target,
        width=width,
        depth="identity_interleave",
        seed=2,
        symmetry_break=symmetry_break,
    )
    with norms_in_double():
        assert largest_change(before, source, after, shape) <= 1e-10


@pytest.mark.parametrize(
    ("width", "depth", "vocab_size"),
    [("zero_pad", "identity_interleave", 32_771), ("clone", "identity_back", None)],
)
def test_full_size_is_exact_in_fp32(width: str, depth: str, vocab_size: int | None) -> None:
    """Stentor-30M to Stentor-Big: 142,637,568 parameters, and 1,536 more with the card's rows."""
    target = grown_shape(STENTOR_30M, 512, 2048, 30, 8, vocab_size)
    before = random_weights(STENTOR_30M, std=0.05)
    after, shape = expand(before, STENTOR_30M, target, width=width, depth=depth, seed=0)
    tokens = some_tokens(STENTOR_30M, length=12)
    assert largest_change(before, STENTOR_30M, after, shape, tokens) <= EXACT_TOLERANCE
    num_parameters = sum(tensor.numel() for tensor in after.values())
    assert num_parameters == (142_637_568 if vocab_size is None else 142_639_104)


@pytest.mark.parametrize("width", EXACT_WIDTHS)
def test_a_grown_checkpoint_loads_in_stock_transformers_and_stays_tied(
    width: str, tiny_model_folder: Path, tmp_path: Path
) -> None:
    parent = open_checkpoint_folder(tiny_model_folder)
    settings = ExpandSettings(
        width=width,
        hidden_size=64,
        intermediate_size=128,
        num_layers=3,
        num_heads=4,
        vocab_size=323,
    )
    model, report = grow(parent, settings, seed=0)
    save_checkpoint(tmp_path / "grown", model, tiny_model_folder, {})

    answer: Any = LlamaForCausalLM.from_pretrained(tmp_path / "grown", output_loading_info=True)
    loaded, info = answer
    assert not any(info.values()), info
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    factor = 2 if width == "zero_pad" else 1
    assert loaded.config.rms_norm_eps == pytest.approx(parent.shape.rms_norm_eps / factor)
    assert (loaded.config.num_hidden_layers, loaded.config.vocab_size) == (3, 323)

    opened = open_checkpoint_folder(tmp_path / "grown")
    assert opened.shape.is_tied
    assert report.is_exact and report.parameters_after == loaded.num_parameters()
    tokens = torch.arange(1, 60).unsqueeze(0)
    with torch.inference_mode():
        old = LlamaForCausalLM.from_pretrained(tiny_model_folder)(input_ids=tokens).logits
        new = loaded(input_ids=tokens).logits[..., : old.shape[-1]]
    assert float((old - new).abs().max()) <= EXACT_TOLERANCE * float(old.abs().max())
    assert set(read_weights(opened)) == set(tensor_shapes_of(opened.shape))
