"""Attention over the slot cache: keys and values of all positions that a row has seen.

A row's result depends on its own slot alone. Knows no matrices and no order of layers.
"""

import math
from typing import NamedTuple

import numpy as np

from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.kernels import exponential, largest_value, rotate, store_inputs
from stentor.engine.cpu.packing import INT16_LIMIT, Floats, Inputs, PackedModel
from stentor.engine.cpu.tile import prefetch

LINE = 32  # numbers of 16 bits in a cache line
AHEAD = 16  # positions whose keys are asked for before they are needed; values, a whole pass


class SlotCache(NamedTuple):
    """Keys and values of all slots, as int16 with a scale per position and head, or fp32.

    16 bits halve what attention reads and lose nothing that int8 weights have not lost already. All
    heads of a position are beside each other, so that memory is read in one direction: a step
    of thirty rows took a tenth longer with a layout by heads.
    """

    keys: Inputs  # [layers, slots, positions, kv_heads, head_dim]
    values: Inputs
    key_scales: Floats  # [layers, slots, positions, kv_heads]; ones for fp32
    value_scales: Floats


@compiled()
def remember(
    projected: Floats, model: PackedModel, cache: SlotCache, layer: int, slot: int, position: int
) -> None:
    """Rotate one row's queries and keys in place, and keep its keys and values."""
    num_kv_heads, head_dim = cache.keys.shape[3], cache.keys.shape[4]
    num_heads = projected.size // head_dim - 2 * num_kv_heads
    cosines, sines = model.cosines[position], model.sines[position]
    factor = np.float32(1.0 / math.sqrt(head_dim))  # of the scores, folded into the queries
    for head in range(num_heads):
        query = projected[head * head_dim : (head + 1) * head_dim]
        rotate(query, cosines, sines, factor)
    place = layer, slot, position
    for head in range(num_kv_heads):
        start = (num_heads + head) * head_dim
        key = projected[start : start + head_dim]
        rotate(key, cosines, sines, np.float32(1.0))
        store_inputs(key, INT16_LIMIT, cache.keys[place], cache.key_scales[place], head)
        start += num_kv_heads * head_dim
        value = projected[start : start + head_dim]
        store_inputs(value, INT16_LIMIT, cache.values[place], cache.value_scales[place], head)


@compiled()
def _softmax(scores: Floats) -> None:
    """Turn scores into weights that sum to 1, in place."""
    largest = largest_value(scores)
    total = np.float32(0.0)
    for index in range(scores.size):
        scores[index] = exponential(scores[index] - largest)
        total += scores[index]
    factor = np.float32(1.0) / total
    for index in range(scores.size):
        scores[index] *= factor


class Heads(NamedTuple):
    """Key-value heads `first` to `last` - 1, each with `group` heads of queries."""

    first: int
    last: int
    group: int


@compiled()
def _score(
    queries: Floats, keys: Inputs, values: Inputs, scales: Floats, heads: Heads, scores: Floats
) -> None:
    """Write query . key, [heads, positions]; keys are [positions, kv_heads, head_dim]."""
    count, head_dim = scores.shape[1], keys.shape[2]
    stride = keys.shape[1] * head_dim
    for position in range(count):
        row = 0
        for kv_head in range(heads.first, heads.last):
            for index in range(0, head_dim, LINE):
                place = position * stride + kv_head * head_dim + index
                prefetch(keys, place + AHEAD * stride)
                prefetch(values, place)
            key, scale = keys[position, kv_head], scales[position, kv_head]
            for head in range(kv_head * heads.group, (kv_head + 1) * heads.group):
                query = queries[head * head_dim : (head + 1) * head_dim]
                total = np.float32(0.0)
                for index in range(head_dim):
                    total += query[index] * np.float32(key[index])
                scores[row, position] = total * scale
                row += 1


@compiled()
def _mix(weights: Floats, values: Inputs, scales: Floats, heads: Heads, outputs: Floats) -> None:
    """Add weight * value over all positions; weights are [heads, positions]."""
    count, head_dim = weights.shape[1], values.shape[2]
    for position in range(count):
        row = 0
        for kv_head in range(heads.first, heads.last):
            value, scale = values[position, kv_head], scales[position, kv_head]
            for head in range(kv_head * heads.group, (kv_head + 1) * heads.group):
                out = outputs[head * head_dim : (head + 1) * head_dim]
                weight = weights[row, position] * scale
                for index in range(head_dim):
                    out[index] += weight * np.float32(value[index])
                row += 1


@compiled()
def attend(
    queries: Floats,
    cache: SlotCache,
    layer: int,
    slot: int,
    heads: Heads,
    scores: Floats,
    outputs: Floats,
) -> None:
    """Write the attention of some heads of one row; scores are [heads, positions]."""
    place, head_dim = (layer, slot), cache.keys.shape[4]
    _score(queries, cache.keys[place], cache.values[place], cache.key_scales[place], heads, scores)
    for row in range(scores.shape[0]):
        _softmax(scores[row])
    start, end = heads.first * heads.group * head_dim, heads.last * heads.group * head_dim
    outputs[start:end] = np.float32(0.0)
    _mix(scores, cache.values[place], cache.value_scales[place], heads, outputs)
