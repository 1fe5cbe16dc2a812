"""From a checkpoint's tensors to what the CPU kernels read: blocks of LANES outputs, int8 or fp32.

A packed matrix holds LANES outputs beside each other for each input (fp32) or each pair of inputs
(int8), so that one load feeds all lanes of a register and memory is read in one direction. int8
weights have one scale per output, the largest absolute weight / 127.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stentor.engine.cpu.tile import BLOCK_MULTIPLE, LANES
from stentor.loading import LlamaShape

INT8_LIMIT = 127
INT16_LIMIT = 32_767
INT32_LIMIT = 2**31 - 1

Floats = NDArray[np.float32]
Stored = NDArray[np.int8] | Floats


class PackedMatrix(NamedTuple):
    """Matrices of one kind for all layers.

    blocks: int8 [layers, out / 16, in / 2, 32] or fp32 [layers, out / 16, in, 16]
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
    shape: LlamaShape, weights: dict[str, Tensor], capacity: int, is_int8: bool
) -> PackedModel:
    """Pack fp32 weights by their Hugging Face names; `weights` is emptied on the way.

    `capacity` is the number of positions that will be used.
    """

    def take(*names: str, is_added: bool = False) -> PackedMatrix:
        layers = [
            torch.cat([weights.pop(f"model.layers.{index}.{name}.weight") for name in names])
            for index in range(shape.num_layers)
        ]
        return pack_matrices(layers, is_int8, is_added=is_added)

    def gains(name: str) -> Floats:
        parts = [
            weights.pop(f"model.layers.{index}.{name}.weight") for index in range(shape.num_layers)
        ]
        return _array(torch.stack(parts))

    embedding = pack_matrices([weights.pop("model.embed_tokens.weight")], is_int8)
    head = embedding if shape.is_tied else pack_matrices([weights.pop("lm_head.weight")], is_int8)
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


def pack_matrices(matrices: list[Tensor], is_int8: bool, *, is_added: bool = False) -> PackedMatrix:
    """Pack matrices [out, in], one per layer; outputs are padded to whole tiles, inputs to 2."""
    num_outputs, num_inputs = matrices[0].shape
    num_tiles, group = -(-num_outputs // (LANES * BLOCK_MULTIPLE)), 2 if is_int8 else 1
    num_blocks = num_tiles * BLOCK_MULTIPLE
    steps = -(-num_inputs // group)
    size = len(matrices), num_blocks, steps, LANES * group
    # Made by numpy, which asks the machine for large pages: a quarter more bandwidth.
    blocks = np.empty(size, np.int8) if is_int8 else np.empty(size, np.float32)
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
    limit = min(INT16_LIMIT, INT32_LIMIT // (INT8_LIMIT * steps * group))
    return PackedMatrix(blocks, _array(scales), num_inputs, float(limit), int(is_added))


def _rotary_tables(shape: LlamaShape, capacity: int) -> tuple[Floats, Floats]:
    """Return cosines and sines [capacity, head_dim / 2] of the rotary angles (arXiv 2104.09864)."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / shape.rope_theta**exponents
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32), frequencies)
    return _array(angles.cos()), _array(angles.sin())


def _array(tensor: Tensor) -> Floats:
    array: Floats = tensor.contiguous().numpy()
    return array
