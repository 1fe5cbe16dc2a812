"""Growing: exactness, shapes, refusals, and that every new part comes alive."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.errors import OptionError, TrainingError
from stentor.loading import LlamaShape, open_checkpoint_folder, read_weights, tensor_shapes_of
from training.checkpoint import build_model, save_checkpoint
from training.expansion import (
    DEPTHS,
    WIDTHS,
    Weights,
    check_target,
    expand,
    grown_shape,
    interleaved_layers,
    is_exact,
)
from training.growth_report import EXACT_TOLERANCE
from training.settings import ExpandSettings
from training.stages.expand import grow

SMALL = LlamaShape(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    context_length=64,
    rms_norm_eps=1e-2,  # large, so that a wrong eps shows
    rope_theta=10_000.0,
    is_tied=True,
)
STENTOR_30M = replace(
    SMALL,
    vocab_size=32_768,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=21,
    num_heads=4,
    num_key_value_heads=4,
    head_dim=64,
)


def random_weights(shape: LlamaShape, seed: int = 3) -> Weights:
    """Return weights that are nothing like an initialisation: large, with uneven norm gains."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(size, generator=generator) * 0.3 + (len(size) == 1)
        for name, size in tensor_shapes_of(shape).items()
    }


def logits_of(weights: Weights, shape: LlamaShape) -> torch.Tensor:
    tokens = torch.arange(2 * 40).reshape(2, 40) * 7 % SMALL.vocab_size
    with torch.inference_mode():
        logits: torch.Tensor = build_model(shape, weights, 0)(input_ids=tokens).logits
    return logits


def grown(
    source: LlamaShape,
    target: LlamaShape,
    width: str = "zero_pad",
    depth: str = "identity_interleave",
) -> tuple[Weights, Weights, LlamaShape]:
    weights = random_weights(source)
    after, shape = expand(weights, source, target, width=width, depth=depth, seed=1)
    return weights, after, shape


@pytest.mark.parametrize(
    ("num_layers_before", "target"),
    [
        (2, (32, 48, 3, 4)),
        (2, (32, 24, 2, 4)),  # wider only
        (2, (16, 24, 7, 2)),  # deeper only, more new layers than old ones
        (2, (16, 40, 2, 2)),  # a larger SwiGLU only
        (2, (40, 30, 4, 5)),  # no doubling
        (2, (16, 24, 2, 2)),  # nothing to do
        (21, (32, 48, 30, 4)),  # Stentor-Big's layers
    ],
)
def test_the_default_growth_keeps_every_logit(
    num_layers_before: int, target: tuple[int, int, int, int]
) -> None:
    source = replace(SMALL, num_layers=num_layers_before)
    before, after, shape = grown(source, grown_shape(source, *target))
    old, new = logits_of(before, source), logits_of(after, shape)
    assert float((old - new).abs().max()) <= EXACT_TOLERANCE * float(old.abs().max())
    assert {name: tuple(tensor.shape) for name, tensor in after.items()} == tensor_shapes_of(shape)


def test_the_layer_list_of_21_to_30() -> None:
    """The list of shared growth notes, section 4: never at the front, evenly spread."""
    target = replace(STENTOR_30M, num_layers=30)
    marked = [
        f"{origin}{'*' if new else ''}" for origin, new in interleaved_layers(STENTOR_30M, target)
    ]
    assert " ".join(marked) == (
        "0 1 2 2* 3 4 4* 5 6 6* 7 8 9 9* 10 11 11* 12 13 13* 14 15 16 16* 17 18 18* 19 20 20*"
    )


@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, 9), (2, 3), (5, 11), (7, 10), (3, 3)])
def test_every_layer_list_keeps_the_order_and_the_number(before: int, after: int) -> None:
    source, target = replace(SMALL, num_layers=before), replace(SMALL, num_layers=after)
    layers = interleaved_layers(source, target)
    assert len(layers) == after
    assert [origin for origin, is_new in layers if not is_new] == list(range(before))
    assert [origin for origin, _ in layers] == sorted(origin for origin, _ in layers)
    assert not layers[0][1]


def test_full_size_has_the_parameters_of_stentor_big() -> None:
    target = grown_shape(STENTOR_30M, 512, 2048, 30, 8)
    check_target(STENTOR_30M, target)

    def count(shape: LlamaShape) -> int:
        return sum(torch.Size(size).numel() for size in tensor_shapes_of(shape).values())

    assert count(STENTOR_30M) == 30_419_712
    assert count(target) == 142_637_568
    assert count(replace(target, vocab_size=32_771)) == 142_639_104  # what the card says


def test_slice_copies_the_overlap_and_is_random_elsewhere() -> None:
    source, target = SMALL, grown_shape(SMALL, 32, 48, 2, 4)
    before, after, shape = grown(source, target, "slice")
    assert shape.rms_norm_eps == SMALL.rms_norm_eps
    for name, old in before.items():
        new = after[name]
        overlap = tuple(slice(0, length) for length in old.shape)
        assert torch.equal(new[overlap], old), name
        if old.dim() == 1:
            assert bool((new[old.shape[0] :] == 1).all()), name
    embedding = after["model.embed_tokens.weight"][:, 16:]
    assert 0.015 < float(embedding.std()) < 0.025
    assert not is_exact("slice", "identity_interleave")
    assert not is_exact("zero_pad", "random_top")
    assert is_exact("zero_pad", "identity_interleave")


def test_random_top_keeps_the_old_layers_below() -> None:
    target = replace(SMALL, num_layers=4)
    before, after, _ = grown(SMALL, target, depth="random_top")
    for name, old in before.items():
        assert torch.equal(after[name], old), name
    fresh = after["model.layers.3.mlp.down_proj.weight"]
    assert 0.01 < float(fresh.std()) < 0.03
    assert bool((after["model.layers.3.input_layernorm.weight"] == 1).all())
    assert not torch.equal(fresh, after["model.layers.2.mlp.down_proj.weight"])


def test_the_seed_decides_the_new_weights_and_the_source_is_left_alone() -> None:
    target = grown_shape(SMALL, 32, 48, 3, 4)
    weights = random_weights(SMALL)
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    names = {"width": "zero_pad", "depth": "identity_interleave"}
    first, _ = expand(weights, SMALL, target, seed=1, **names)
    again, _ = expand(weights, SMALL, target, seed=1, **names)
    other, _ = expand(weights, SMALL, target, seed=2, **names)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(weights[name], copies[name]) for name in weights)


def test_every_new_part_comes_alive() -> None:
    """Silent is not dead: after two updates each tensor has moved in its old and its new part.

    One update moves the writers and the embedding; only then do gradients reach what feeds them.
    """
    target = grown_shape(SMALL, 32, 48, 5, 4)
    _, after, shape = grown(SMALL, target)
    model = build_model(shape, after, 0)
    tokens = torch.arange(2 * 40).reshape(2, 40) * 7 % SMALL.vocab_size
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


@pytest.mark.parametrize(
    ("source", "sizes", "message"),
    [
        (SMALL, (8, 24, 2, 1), "hidden_size 8 is below 16"),
        (SMALL, (16, 8, 1, 2), "intermediate_size 8 is below 24; num_layers 1 is below 2"),
        (SMALL, (32, 24, 2, 2), "the head dimension would change from 8 to 16"),
        (replace(SMALL, num_key_value_heads=1), (32, 24, 2, 4), "grouped-query attention"),
        (replace(SMALL, is_tied=False), (32, 24, 2, 4), "untied output matrix"),
    ],
)
def test_impossible_growth_is_refused_with_every_reason(
    source: LlamaShape, sizes: tuple[int, int, int, int], message: str
) -> None:
    target = grown_shape(source, *sizes)
    with pytest.raises(TrainingError, match=f"This growth is not possible: .*{message}"):
        expand({}, source, target, width="zero_pad", depth="identity_interleave", seed=0)


def test_growth_needs_fp32_and_known_strategies() -> None:
    target = grown_shape(SMALL, 32, 48, 3, 4)
    halves = {name: tensor.bfloat16() for name, tensor in random_weights(SMALL).items()}
    with pytest.raises(TrainingError, match="Growth needs fp32 weights"):
        expand(halves, SMALL, target, width="zero_pad", depth="identity_interleave", seed=0)
    with pytest.raises(OptionError, match="Did you mean 'zero_pad'"):
        expand({}, SMALL, target, width="zeropad", depth="identity_interleave", seed=0)


def test_every_strategy_can_be_chosen_in_a_recipe() -> None:
    fields = ExpandSettings.__dataclass_fields__
    assert fields["width"].metadata["knob"].choices == tuple(WIDTHS)
    assert fields["depth"].metadata["knob"].choices == tuple(DEPTHS)


def test_a_grown_checkpoint_loads_in_stock_transformers_and_stays_tied(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    parent = open_checkpoint_folder(tiny_model_folder)
    settings = ExpandSettings(hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4)
    model, report = grow(parent, settings, seed=0)
    save_checkpoint(tmp_path / "grown", model, tiny_model_folder, {})

    answer: Any = LlamaForCausalLM.from_pretrained(tmp_path / "grown", output_loading_info=True)
    loaded, info = answer
    assert not any(info.values()), info
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.config.rms_norm_eps == pytest.approx(parent.shape.rms_norm_eps / 2)
    assert loaded.config.num_hidden_layers == 3

    opened = open_checkpoint_folder(tmp_path / "grown")
    assert opened.shape.is_tied
    assert report.is_exact and report.parameters_after == loaded.num_parameters()
    tokens = torch.arange(1, 60).unsqueeze(0)
    with torch.inference_mode():
        old = LlamaForCausalLM.from_pretrained(tiny_model_folder)(input_ids=tokens).logits
        new = loaded(input_ids=tokens).logits
    assert float((old - new).abs().max()) <= EXACT_TOLERANCE * float(old.abs().max())
    assert set(read_weights(opened)) == set(tensor_shapes_of(opened.shape))
