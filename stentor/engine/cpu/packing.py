"""From a checkpoint's tensors to what the CPU kernels read: blocks of LANES outputs, int8 or fp32.

A packed matrix holds LANES outputs beside each other for each input (fp32) or each pair of inputs
(int8), so that one load feeds all lanes of a register and memory is read in one direction. int8
weights have one scale per output, the largest absolute weight / 127.
"""

import math
from enum import Enum
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stentor.engine.cpu.amx import HAS_AMX, STEP
from stentor.engine.cpu.tile import BLOCK_MULTIPLE, LANES
from stentor.loading import LlamaShape

Number = TypeVar("Number", np.int8, np.int16, np.float32)
LINE_BYTES = 64
INT8_LIMIT = 127
INT16_LIMIT = 32_767
INT32_LIMIT = 2**31 - 1

Floats = NDArray[np.float32]
Stored = NDArray[np.int8] | Floats
Inputs = NDArray[np.int8] | NDArray[np.int16] | Floats


class Layout(Enum):
    """How numbers lie: the value is how many inputs of an output are beside each other."""

    FLOATS = 1  # fp32
    PAIRS = 2  # int8 weights, int16 activations
    QUADS = 4  # int8 weights for AMX, activations as bytes: all high ones of a row, all low ones


def layout_of(precision: str) -> Layout:
    """Return the layout that is fastest here; the two for int8 give the same bits."""
    if precision != "int8":
        return Layout.FLOATS
    return Layout.QUADS if HAS_AMX else Layout.PAIRS


class PackedMatrix(NamedTuple):
    """Matrices of one kind for all layers.

    blocks: [layers, out / 16, in / group, 16 * group], the group being the value of the layout
    scales: [layers, out], of the outputs; ones for fp32
    num_inputs: before padding
    limit: the largest absolute activation, so that no sum leaves 32 bits
    is_added: 1 where the product is added to what the outputs hold, 0 where it replaces it
    """

    blocks: Stored
    scales: Floats
    num_inputs: int
    limit: float
    is_added: int


class PackedModel(NamedTuple):
    """Everything a step reads of a model. Norm gains are [layers, hidden]."""

    embedding: PackedMatrix
    head: PackedMatrix  # the same arrays where tied
    query_key_value: PackedMatrix
    attention_output: PackedMatrix
    gate_up: PackedMatrix
    down: PackedMatrix
    input_gains: Floats
    attention_gains: Floats
    final_gain: Floats
    cosines: Floats  # [context, head_dim / 2]
    sines: Floats
    epsilon: float


def pack_model(
    shape: LlamaShape, weights: dict[str, Tensor], capacity: int, layout: Layout
) -> PackedModel:
    """Pack fp32 weights by their Hugging Face names; `weights` is emptied on the way.

    `capacity` is the number of positions that will be used.
    """

    def take(*names: str, is_added: bool = False) -> PackedMatrix:
        layers = [
            torch.cat([weights.pop(f"model.layers.{index}.{name}.weight") for name in names])
            for index in range(shape.num_layers)
        ]
        return pack_matrices(layers, layout, is_added=is_added)

    def gains(name: str) -> Floats:
        parts = [
            weights.pop(f"model.layers.{index}.{name}.weight") for index in range(shape.num_layers)
        ]
        return _array(torch.stack(parts))

    embedding = pack_matrices([weights.pop("model.embed_tokens.weight")], layout)
    head = embedding if shape.is_tied else pack_matrices([weights.pop("lm_head.weight")], layout)
    cosines, sines = _rotary_tables(shape, capacity)
    return PackedModel(
        embedding=embedding,
        head=head,
        query_key_value=take("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_output=take("self_attn.o_proj", is_added=True),
        gate_up=take("mlp.gate_proj", "mlp.up_proj"),
        down=take("mlp.down_proj", is_added=True),
        input_gains=gains("input_layernorm"),
        attention_gains=gains("post_attention_layernorm"),
        final_gain=_array(weights.pop("model.norm.weight")),
        cosines=cosines,
        sines=sines,
        epsilon=shape.rms_norm_eps,
    )


def pack_matrices(
    matrices: list[Tensor], layout: Layout, *, is_added: bool = False
) -> PackedMatrix:
    """Pack matrices [out, in], one per layer; outputs are padded to whole tiles, inputs to 2."""
    num_outputs, num_inputs = matrices[0].shape
    num_blocks = -(-num_outputs // (LANES * BLOCK_MULTIPLE)) * BLOCK_MULTIPLE
    is_int8, group = layout is not Layout.FLOATS, layout.value
    steps = _padded_inputs(num_inputs, layout) // group
    size = len(matrices), num_blocks, steps, LANES * group
    blocks: Stored = aligned(size, np.int8) if is_int8 else aligned(size, np.float32)
    scales = torch.ones(len(matrices), num_blocks * LANES)
    for index, matrix in enumerate(matrices):
        padded = torch.zeros(num_blocks * LANES, steps * group)
        padded[:num_outputs, :num_inputs] = matrix
        if is_int8:
            largest = padded.abs().amax(dim=1)
            scales[index] = torch.where(largest == 0, 1.0, largest / INT8_LIMIT)
            # A NaN goes on in the scale, where no integer can hide it.
            padded = (padded / scales[index, :, None]).round_().nan_to_num_(0.0)
        lanes = padded.view(num_blocks, LANES, steps, group).permute(0, 2, 1, 3)
        blocks[index] = lanes.reshape(size[1:]).numpy()
    limit = min(INT16_LIMIT, INT32_LIMIT // (INT8_LIMIT * num_inputs))
    return PackedMatrix(blocks, _array(scales), num_inputs, float(limit), int(is_added))


def _padded_inputs(num_inputs: int, layout: Layout) -> int:
    """Return the inputs of a packed matrix: whole pairs, whole steps of the tile unit."""
    multiple = STEP if layout is Layout.QUADS else layout.value
    return -(-num_inputs // multiple) * multiple


def make_inputs(num_rows: int, num_inputs: int, layout: Layout) -> Inputs:
    """Return room for rows of activations as `linear` reads them, [rows, a little more]."""
    # Rows a power of two apart would all fall into the same few lines of the first-level cache.
    width = _padded_inputs(num_inputs, layout) + STEP
    if layout is Layout.FLOATS:
        return aligned((num_rows, width), np.float32)
    if layout is Layout.PAIRS:
        return aligned((num_rows, width), np.int16)
    return aligned((num_rows, 2 * width), np.int8)


def aligned(size: tuple[int, ...], kind: type[Number]) -> NDArray[Number]:
    """Return an array that begins with a cache line; its memory is given when it is first used.

    Made by numpy, which asks the machine for large pages: a quarter more bandwidth.
    """
    num_bytes = math.prod(size) * np.dtype(kind).itemsize
    room = np.empty(num_bytes + LINE_BYTES, np.uint8)
    start = -room.ctypes.data % LINE_BYTES
    return room[start : start + num_bytes].view(kind).reshape(size)


def _rotary_tables(shape: LlamaShape, capacity: int) -> tuple[Floats, Floats]:
    """Return cosines and sines [capacity, head_dim / 2] of the rotary angles (arXiv 2104.09864)."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / shape.rope_theta**exponents
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32), frequencies)
    return _array(angles.cos()), _array(angles.sin())


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.contiguous().numpy()
    return array
