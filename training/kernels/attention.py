"""Causal attention with rotary positions, forward and backward (arXiv 2104.09864, 2307.08691).

One head of one window at a time, so that all of it stays in the cache of a core, and a block of
queries at a time. The backward pass computes the weights again from the logarithms of their sums.
Knows nothing of the products before and after it.
"""

import math

import numpy as np
from numba import carray
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.kernels import exponential, largest_value
from stentor.engine.cpu.tile import LANES, prefetch
from training.kernels.blocks import (
    QUERIES,
    WIDE,
    Sizes,
    add_transposed,
    score_block,
    sizes_of,
    weighted_sum,
)
from training.kernels.team import Arguments, floats, next_piece

Floats = NDArray[np.float32]
AHEAD = 12  # rows; asked for early, as the processor foresees no rows with gaps between them
ZERO, ONE = np.float32(0.0), np.float32(1.0)


@compiled()
def _rotate(vector: Floats, cosines: Floats, sines: Floats, sign: np.float32) -> None:
    """Rotate the pairs (i, i + half) of one head by its position, in place; sign -1: back."""
    half = cosines.size
    first, second = vector[:half], vector[half:]
    for index in range(half):
        left, right, sine = first[index], second[index], sines[index] * sign
        first[index] = left * cosines[index] - right * sine
        second[index] = right * cosines[index] + left * sine


@compiled()
def _ask_for(source: Floats, offset: int, dim: int) -> None:
    """Have the memory send one row."""
    for place in range(0, dim, LANES):
        prefetch(source, offset + place)


@compiled()
def _rotate_rows(
    rows: Floats, offset: int, step: int, cosines: Floats, sines: Floats, sizes: Sizes, sign: float
) -> None:
    """Rotate all positions of one head, `step` elements apart, in place; see _rotate."""
    half = sizes.head_dim // 2
    for index in range(sizes.length):
        start, angle = offset + index * step, index * half
        _ask_for(rows, start + AHEAD * step, sizes.head_dim)
        vector = rows[start : start + sizes.head_dim]
        angles = cosines[angle : angle + half], sines[angle : angle + half]
        _rotate(vector, angles[0], angles[1], np.float32(sign))


@compiled()
def _gather(
    source: Floats, offset: int, step: int, count: int, dim: int, factor: float, out: Floats
) -> None:
    """Copy `count` rows of one head, `step` elements apart, to contiguous rows, times `factor`."""
    for index in range(count):
        _ask_for(source, offset + (index + AHEAD) * step, dim)
        from_row = source[offset + index * step : offset + index * step + dim]
        to_row = out[index * dim : (index + 1) * dim]
        for place in range(dim):
            to_row[place] = from_row[place] * np.float32(factor)


@compiled()
def _scatter(
    source: Floats, out: Floats, offset: int, step: int, count: int, dim: int, factor: float
) -> None:
    """Copy contiguous rows to rows `step` elements apart, times `factor`."""
    for index in range(count):
        from_row = source[index * dim : (index + 1) * dim]
        to_row = out[offset + index * step : offset + index * step + dim]
        for place in range(dim):
            to_row[place] = from_row[place] * np.float32(factor)


@compiled()
def _transpose(rows: Floats, sizes: Sizes, out: Floats) -> None:
    """Write contiguous rows as columns; the columns beyond the last are 0."""
    dim, stride = sizes.head_dim, sizes.stride
    for place in range(dim):
        for index in range(sizes.length):
            out[place * stride + index] = rows[index * dim + place]
        for index in range(sizes.length, stride):
            out[place * stride + index] = ZERO


@compiled()
def _softmax(
    scores: Floats, first: int, num_rows: int, sizes: Sizes, sums: Floats, logarithms: Floats
) -> None:
    """Replace scores by e ** (score - largest), 0 beyond the diagonal; see `attention`.

    sums: 1 / the sum of each row; logarithms: that of the sum of e ** score.
    """
    stride = sizes.stride
    end = (first + num_rows + WIDE - 1) // WIDE * WIDE
    for row in range(num_rows):
        values = scores[row * stride : row * stride + first + row + 1]
        largest, total = largest_value(values), ZERO
        for index in range(values.size):
            value = values[index] - largest
            # The exponential of a NaN is 0: its product with 0 is not.
            total += exponential(value) + value * ZERO
            values[index] = exponential(value)
        scores[row * stride + first + row + 1 : row * stride + end] = ZERO
        sums[row], logarithms[row] = ONE / total, largest + np.float32(math.log(total))


@compiled()
def _attend(
    queries: Floats,
    start: int,
    transposed: Floats,
    values: Floats,
    sizes: Sizes,
    outputs: Floats,
    logarithms: Floats,
) -> None:
    """Attend with one head, whose rows begin at `start` of queries and of outputs."""
    dim, step = sizes.head_dim, sizes.num_heads * sizes.head_dim
    scores = np.empty(QUERIES * sizes.stride, np.float32)
    rows, sums = np.empty(QUERIES * dim, np.float32), np.empty(QUERIES, np.float32)
    for first in range(0, sizes.length, QUERIES):
        count = min(QUERIES, sizes.length - first)
        offset = start + first * step
        _gather(queries, offset, step, count, dim, 1.0 / math.sqrt(dim), rows)
        score_block(rows, transposed, first, count, sizes, scores)
        _softmax(scores, first, count, sizes, sums, logarithms[first : first + count])
        weighted_sum(scores, values, first, count, sizes, rows)
        for row in range(count):
            _scatter(rows[row * dim :], outputs, offset + row * step, step, 1, dim, sums[row])


def attention(arguments: Arguments) -> None:
    """Rotate queries and keys in place and attend.

    Arguments: queries (batch, length, heads, dim), keys and values (batch, length, groups, dim),
    cosines and sines (length, dim / 2); batch, length, heads, groups, dim; outputs like queries,
    logarithms of the sums (batch, heads, length). dim is a multiple of LANES.
    """
    given = carray(arguments, 13)
    sizes = sizes_of(given[7], given[8], given[9], given[10])
    length, heads, groups, dim, stride = sizes
    wide, narrow = given[6] * length * heads * dim, given[6] * length * groups * dim
    queries, outputs = floats(given[1], wide), floats(given[11], wide)
    keys, values = floats(given[2], narrow), floats(given[3], narrow)
    cosines, sines = floats(given[4], length * dim // 2), floats(given[5], length * dim // 2)
    logarithms = floats(given[12], given[6] * heads * length)
    rows, transposed = np.empty(length * dim, np.float32), np.empty(dim * stride, np.float32)
    piece = next_piece(arguments)
    while piece < given[6] * groups:
        window, group = piece // groups, piece % groups
        start, step = (window * length * groups + group) * dim, groups * dim
        _rotate_rows(keys, start, step, cosines, sines, sizes, 1.0)
        _gather(keys, start, step, length, dim, 1.0, rows)
        _transpose(rows, sizes, transposed)
        _gather(values, start, step, length, dim, 1.0, rows)
        for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
            start, row = (window * length * heads + head) * dim, (window * heads + head) * length
            _rotate_rows(queries, start, heads * dim, cosines, sines, sizes, 1.0)
            logs = logarithms[row : row + length]
            _attend(queries, start, transposed, rows, sizes, outputs, logs)
        piece = next_piece(arguments)


@compiled()
def _slopes(
    scores: Floats,
    slopes: Floats,
    first: int,
    num_rows: int,
    sizes: Sizes,
    logarithms: Floats,
    deltas: Floats,
) -> None:
    """Replace scores by weights, and gradients of weights by those of scores; see _softmax."""
    stride = sizes.stride
    end = (first + num_rows + WIDE - 1) // WIDE * WIDE
    for row in range(num_rows):
        start, last = row * stride, row * stride + first + row + 1
        values, gradients = scores[start:last], slopes[start:last]
        logarithm, delta = logarithms[first + row], deltas[row]
        for index in range(values.size):
            weight = exponential(values[index] - logarithm)
            values[index] = weight
            gradients[index] = weight * (gradients[index] - delta)
        scores[last : row * stride + end] = ZERO
        slopes[last : row * stride + end] = ZERO


@compiled()
def _attend_backward(
    queries: Floats,
    outputs: Floats,
    above: Floats,
    start: int,
    keys_values: tuple[Floats, Floats, Floats],
    sizes: Sizes,
    logarithms: Floats,
    of_queries: Floats,
    of_keys: Floats,
    of_values: Floats,
) -> None:
    """Write the gradient of one head's rotated queries; add those of its keys and values.

    keys_values: keys, keys transposed, values transposed.
    """
    keys, keys_transposed, values_transposed = keys_values
    dim, step = sizes.head_dim, sizes.num_heads * sizes.head_dim
    scale = 1.0 / math.sqrt(dim)
    scores = np.empty(QUERIES * sizes.stride, np.float32)
    slopes = np.empty(QUERIES * sizes.stride, np.float32)
    rows, gradients = np.empty(QUERIES * dim, np.float32), np.empty(QUERIES * dim, np.float32)
    deltas = np.empty(QUERIES, np.float32)
    for first in range(0, sizes.length, QUERIES):
        count = min(QUERIES, sizes.length - first)
        offset = start + first * step
        _gather(queries, offset, step, count, dim, scale, rows)
        _gather(above, offset, step, count, dim, 1.0, gradients)
        for row in range(count):
            total, place = ZERO, offset + row * step
            _ask_for(outputs, place + AHEAD * step, dim)
            for index in range(dim):
                total += gradients[row * dim + index] * outputs[place + index]
            deltas[row] = total
        score_block(rows, keys_transposed, first, count, sizes, scores)
        score_block(gradients, values_transposed, first, count, sizes, slopes)
        _slopes(scores, slopes, first, count, sizes, logarithms, deltas)
        add_transposed(scores, gradients, first, count, sizes, of_values)
        add_transposed(slopes, rows, first, count, sizes, of_keys)
        weighted_sum(slopes, keys, first, count, sizes, rows)
        _scatter(rows, of_queries, offset, step, count, dim, scale)


def attention_backward(arguments: Arguments) -> None:
    """Write the gradients of queries, keys and values as they were before the rotation.

    Arguments: the first ten of `attention`, its queries and keys rotated; its outputs and
    logarithms, gradient of the outputs; gradients of queries, keys and values.
    """
    given = carray(arguments, 17)
    sizes = sizes_of(given[7], given[8], given[9], given[10])
    length, heads, groups, dim, stride = sizes
    wide, narrow = given[6] * length * heads * dim, given[6] * length * groups * dim
    queries, outputs = floats(given[1], wide), floats(given[11], wide)
    above, of_queries = floats(given[13], wide), floats(given[14], wide)
    keys, values = floats(given[2], narrow), floats(given[3], narrow)
    of_keys, of_values = floats(given[15], narrow), floats(given[16], narrow)
    cosines, sines = floats(given[4], length * dim // 2), floats(given[5], length * dim // 2)
    logarithms = floats(given[12], given[6] * heads * length)
    rows, key_sums = np.empty(length * dim, np.float32), np.empty(length * dim, np.float32)
    value_sums = np.empty(length * dim, np.float32)
    columns = np.empty(dim * stride, np.float32), np.empty(dim * stride, np.float32)
    piece = next_piece(arguments)
    while piece < given[6] * groups:
        window, group = piece // groups, piece % groups
        start, step = (window * length * groups + group) * dim, groups * dim
        _gather(values, start, step, length, dim, 1.0, rows)
        _transpose(rows, sizes, columns[1])
        _gather(keys, start, step, length, dim, 1.0, rows)
        _transpose(rows, sizes, columns[0])
        key_sums[:], value_sums[:] = ZERO, ZERO
        for head in range(group * (heads // groups), (group + 1) * (heads // groups)):
            place, row = (window * length * heads + head) * dim, (window * heads + head) * length
            _attend_backward(
                queries, outputs, above, place, (rows, columns[0], columns[1]), sizes,
                logarithms[row : row + length], of_queries, key_sums, value_sums,
            )  # fmt: skip
            _rotate_rows(of_queries, place, heads * dim, cosines, sines, sizes, -1.0)
        _scatter(key_sums, of_keys, start, step, length, dim, 1.0)
        _rotate_rows(of_keys, start, step, cosines, sines, sizes, -1.0)
        _scatter(value_sums, of_values, start, step, length, dim, 1.0)
        piece = next_piece(arguments)
