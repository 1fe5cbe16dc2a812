"""Packed matrices hold what the checkpoint held, as closely as int8 can."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from stentor.engine.cpu.packing import (
    INT8_LIMIT,
    INT16_LIMIT,
    INT32_LIMIT,
    Layout,
    PackedMatrix,
    PackedModel,
    layout_of,
    pack_matrices,
    pack_model,
)
from stentor.engine.cpu.tile import BLOCK_MULTIPLE, LANES, TILES
from stentor.loading import LlamaShape, tensor_shapes_of

INT8_LAYOUTS = [Layout.PAIRS, Layout.QUADS]
SHAPE = LlamaShape(
    vocab_size=37,
    hidden_size=21,
    intermediate_size=13,
    num_layers=3,
    num_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    context_length=50,
    rms_norm_eps=1e-5,
    rope_theta=500.0,
    is_tied=False,
)


def unpack(matrix: PackedMatrix, layer: int = 0) -> NDArray[np.float32]:
    """Return [padded outputs, padded inputs] as stored, times the scale of each output."""
    count, steps, width = matrix.blocks.shape[1:]
    group = width // LANES
    stored = matrix.blocks[layer].reshape(count, steps, LANES, group)
    rows = stored.transpose(0, 2, 1, 3).reshape(count * LANES, steps * group)
    with np.errstate(invalid="ignore"):  # a damaged output: 0 times infinity
        unpacked: NDArray[np.float32] = rows.astype(np.float32) * matrix.scales[layer][:, None]
    return unpacked


def num_blocks(num_outputs: int) -> int:
    """Return the number of blocks that tiles of every width divide."""
    widest = BLOCK_MULTIPLE * LANES
    return -(-num_outputs // widest) * BLOCK_MULTIPLE


def random_weights(shape: LlamaShape) -> dict[str, Tensor]:
    numbers = torch.Generator().manual_seed(2)
    sizes = tensor_shapes_of(shape).items()
    return {name: torch.randn(size, generator=numbers) for name, size in sizes}


def pack(shape: LlamaShape, weights: dict[str, Tensor], precision: str) -> PackedModel:
    return pack_model(shape, dict(weights), 32, layout_of(precision))


def test_every_tile_divides_a_packed_matrix() -> None:
    assert all(BLOCK_MULTIPLE % width == 0 for width in TILES.values())


@pytest.mark.parametrize("size", [(1, 1), (16, 2), (17, 3), (40, 12), (129, 31)])
def test_fp32_comes_back_as_it_was_and_padding_is_0(size: tuple[int, int]) -> None:
    matrices = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    packed = pack_matrices(matrices, Layout.FLOATS)
    num_outputs, num_inputs = size
    assert packed.num_inputs == num_inputs
    assert packed.blocks.shape == (3, num_blocks(num_outputs), num_inputs, LANES)
    assert (packed.scales == 1).all()
    for layer, matrix in enumerate(matrices):
        received = unpack(packed, layer)
        assert np.array_equal(received[:num_outputs], matrix.numpy())
        assert not received[num_outputs:].any()


@pytest.mark.parametrize("size", [(1, 1), (16, 2), (17, 3), (40, 12), (129, 31), (8, 65)])
@pytest.mark.parametrize("layout", INT8_LAYOUTS)
def test_int8_comes_back_within_half_a_step_of_each_output(
    layout: Layout, size: tuple[int, int]
) -> None:
    matrices = [torch.randn(size, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for scale, matrix in zip((1e-3, 1.0, 1e3), matrices, strict=True):
        matrix *= scale
    packed = pack_matrices(matrices, layout)
    num_outputs, num_inputs = size
    step = 2 if layout is Layout.PAIRS else 64
    num_groups = -(-num_inputs // step) * step // layout.value
    assert packed.blocks.dtype == np.int8
    assert packed.blocks.shape == (3, num_blocks(num_outputs), num_groups, layout.value * LANES)
    for layer, matrix in enumerate(matrices):
        received, expected = unpack(packed, layer), matrix.numpy()
        largest = abs(expected).max(axis=1)
        scales = packed.scales[layer, :num_outputs]
        assert np.allclose(scales, largest / INT8_LIMIT, rtol=1e-6)
        error = abs(received[:num_outputs, :num_inputs] - expected)
        assert (error <= scales[:, None] * 0.5001).all()
        peaks = abs(received[:num_outputs, :num_inputs]).max(axis=1)
        assert np.allclose(peaks, largest, rtol=1e-6), "the largest weight of each output is exact"
        assert not received[num_outputs:].any() and not received[:, num_inputs:].any()
        assert abs(packed.blocks[layer].astype(int)).max() <= INT8_LIMIT


@pytest.mark.parametrize("layout", INT8_LAYOUTS)
def test_an_output_of_zeros_stays_one(layout: Layout) -> None:
    packed = pack_matrices([torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 1.0]])], layout)
    received = unpack(packed)
    assert not received[0].any() and np.isfinite(packed.scales).all()
    assert received[1, :3].tolist() == [0.0, -2.0, pytest.approx(1.0, abs=2 / 127)]


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layout", INT8_LAYOUTS)
def test_a_damaged_weight_damages_its_output_and_no_other(layout: Layout, damage: float) -> None:
    """Integers know no NaN: the scale keeps it."""
    matrix = torch.ones(20, 6)
    matrix[17, 3] = damage
    packed = pack_matrices([matrix], layout)
    is_damaged = ~np.isfinite(packed.scales[0])
    assert np.flatnonzero(is_damaged).tolist() == [17]
    received = unpack(packed)
    assert np.array_equal(received[[*range(17), 18, 19], :6], np.ones((19, 6), np.float32))


@pytest.mark.parametrize("num_inputs", [1, 2, 255, 512, 513, 516, 517, 1024, 2048, 65_536])
@pytest.mark.parametrize("layout", INT8_LAYOUTS)
def test_the_limit_of_activations_is_the_largest_that_no_sum_overflows(
    layout: Layout, num_inputs: int
) -> None:
    limit = pack_matrices([torch.ones(1, num_inputs)], layout).limit
    assert limit == int(limit) and 0 < limit <= INT16_LIMIT
    assert limit * INT8_LIMIT * num_inputs <= INT32_LIMIT
    assert limit == INT16_LIMIT or (limit + 1) * INT8_LIMIT * num_inputs > INT32_LIMIT


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_every_weight_of_a_model_has_its_place(precision: str) -> None:
    weights = random_weights(SHAPE)
    model = pack(SHAPE, weights, precision)
    tolerance = 0.0 if precision == "fp32" else 0.04

    def check(matrix: PackedMatrix, layer: int, *names: str) -> None:
        expected = torch.cat([weights[name] for name in names]).numpy()
        num_outputs, num_inputs = expected.shape
        assert matrix.num_inputs == num_inputs
        received = unpack(matrix, layer)[:num_outputs, :num_inputs]
        assert np.allclose(received, expected, rtol=0, atol=tolerance)

    check(model.embedding, 0, "model.embed_tokens.weight")
    check(model.head, 0, "lm_head.weight")
    for layer in range(SHAPE.num_layers):
        prefix = f"model.layers.{layer}."
        attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        names = [f"{attention}{name}_proj.weight" for name in "qkv"]
        check(model.query_key_value, layer, *names)
        check(model.attention_output, layer, f"{attention}o_proj.weight")
        check(model.gate_up, layer, f"{mlp}gate_proj.weight", f"{mlp}up_proj.weight")
        check(model.down, layer, f"{mlp}down_proj.weight")
        for gains, name in (
            (model.input_gains, "input_layernorm"),
            (model.attention_gains, "post_attention_layernorm"),
        ):
            assert np.array_equal(gains[layer], weights[f"{prefix}{name}.weight"].numpy())
    assert np.array_equal(model.final_gain, weights["model.norm.weight"].numpy())
    assert model.epsilon == SHAPE.rms_norm_eps


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_tied_head_is_the_embedding_itself(precision: str) -> None:
    tied = replace(SHAPE, is_tied=True)
    model = pack(tied, random_weights(tied), precision)
    assert model.head is model.embedding
    untied = pack(SHAPE, random_weights(SHAPE), precision)
    assert not np.shares_memory(untied.head.blocks, untied.embedding.blocks)


def test_weights_are_let_go_while_they_are_packed() -> None:
    """A model in two copies would not fit into a small machine."""
    weights = random_weights(SHAPE)
    pack_model(SHAPE, weights, 32, Layout.PAIRS)
    assert weights == {}


def test_angles_are_those_of_transformers() -> None:
    model = pack(SHAPE, random_weights(SHAPE), "fp32")
    config = LlamaConfig(
        hidden_size=24,
        num_attention_heads=4,
        head_dim=6,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    )
    positions = torch.arange(32)[None]
    cosines, sines = LlamaRotaryEmbedding(config)(torch.zeros(1, 32, 6), positions)
    half = SHAPE.head_dim // 2
    assert model.cosines.shape == model.sines.shape == (32, half)
    assert np.allclose(model.cosines, cosines[0, :, :half], rtol=0, atol=1e-6)
    assert np.allclose(model.sines, sines[0, :, :half], rtol=0, atol=1e-6)
