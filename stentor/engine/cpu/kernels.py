"""The operators of a Llama step, each over the rows or columns of one thread.

Every output is computed by one thread in an order that depends on its own row alone. Rows are
tokens, of any requests. Knows no layers' order (forward.py), no sampling and no Python objects.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from stentor.engine.cpu.amx import (
    ROWS_AT_A_TIME,
    STEP_BYTES,
    TILE_ROWS,
    configure,
    make_amx_tile,
    release,
)
from stentor.engine.cpu.compiled import EXACT, compiled
from stentor.engine.cpu.packing import Floats, Inputs, Stored
from stentor.engine.cpu.tile import LANES, MAX_TILE_ROWS, TILES, make_tile

Panel = Callable[..., None]

LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts: the first is exact in few bits, so that n * LN2_HIGH has no rounding error.
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.4286068203094172e-06)
LARGEST_INT32 = np.int32(2**31 - 1)
ROUNDING = np.float32(1.5 * 2.0**23)
# Beyond these e**x is no normal fp32 number: 0 below, and held at e**88 above.
LOWEST_EXPONENT, HIGHEST_EXPONENT = np.float32(-87.0), np.float32(88.0)


@compiled(EXACT)
def nearest(value: np.float32) -> np.float32:
    """Round to the nearest whole number, halves to even, for |value| < 2**22.

    The sum has no room for a fraction. LLVM vectorises it, but no loop that calls `rint`.
    """
    return np.float32((value + ROUNDING) - ROUNDING)


@compiled(EXACT)
def exponential(value: np.float32) -> np.float32:
    """Return e ** value, relative error below 2e-7; LLVM vectorises loops of it.

    exp(x) = 2**n * exp(r) with |r| <= ln 2 / 2, and the Taylor polynomial of degree 7.
    """
    clipped = min(max(value, LOWEST_EXPONENT), HIGHEST_EXPONENT)
    n = nearest(clipped * LOG2_E)
    r = (clipped - n * LN2_HIGH) - n * LN2_LOW
    p = np.float32(1.0 / 5040.0)
    p = p * r + np.float32(1.0 / 720.0)
    p = p * r + np.float32(1.0 / 120.0)
    p = p * r + np.float32(1.0 / 24.0)
    p = p * r + np.float32(1.0 / 6.0)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return p * power if value > LOWEST_EXPONENT else np.float32(0.0)


@compiled()
def _largest_magnitude(values: Floats) -> np.float32:
    """Return max |value|: without their signs, the bits of floats are in the order of the floats.

    LLVM vectorises a maximum of integers, not one of floats as Numba writes it.
    """
    bits, largest = values.view(np.int32), np.int32(0)
    for index in range(bits.size):
        largest = max(largest, bits[index] & LARGEST_INT32)
    return np.int32(largest).view(np.float32)


@compiled()
def largest_value(values: Floats) -> np.float32:
    """Return the maximum; see _largest_magnitude. Negative floats need their bits turned."""
    bits, largest = values.view(np.int32), -LARGEST_INT32
    for index in range(bits.size):
        largest = max(largest, _turned(bits[index]))
    return np.int32(_turned(largest)).view(np.float32)


@compiled()
def _turned(bits: np.int32) -> np.int32:
    return bits ^ ((bits >> np.int32(31)) & LARGEST_INT32)


@compiled()
def not_finite(values: Floats) -> np.float32:
    """Return 0 where all values are finite, else NaN."""
    total = np.float32(0.0)
    for index in range(values.size):
        total += values[index] * np.float32(0.0)
    return total


def store_inputs(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
    """Write one row of activations as the next matrix reads it: int16 with a scale, or fp32."""
    raise NotImplementedError  # compiled code only: chosen by the type of `inputs`


@overload(store_inputs, strict=False)
def _store_inputs(
    values: Any,  # noqa: ANN401
    limit: Any,  # noqa: ANN401
    inputs: Any,  # noqa: ANN401
    scales: Any,  # noqa: ANN401
    row: Any,  # noqa: ANN401
) -> Callable[..., None]:
    def store_int16(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
        largest = _largest_magnitude(values)
        factor = np.float32(limit) / largest if largest > np.float32(0.0) else np.float32(0.0)
        # A NaN would be lost in the integers; in the scale it reaches every output.
        scales[row] = largest / np.float32(limit) + not_finite(values)
        for index in range(values.size):
            inputs[row, index] = np.int16(np.int32(nearest(values[index] * factor)))

    def store_fp32(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
        for index in range(values.size):
            inputs[row, index] = values[index]

    def store_bytes(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
        largest = _largest_magnitude(values)
        factor = np.float32(limit) / largest if largest > np.float32(0.0) else np.float32(0.0)
        scales[row] = largest / np.float32(limit) + not_finite(values)
        high, low = inputs[row], inputs[row, inputs.shape[1] // 2 :]
        for index in range(values.size):
            number = np.int32(nearest(values[index] * factor))
            high[index] = np.int8(number >> np.int32(8))
            low[index] = np.int8(number & np.int32(255))

    kinds = {types.int16: store_int16, types.int8: store_bytes}
    return kinds.get(inputs.dtype, store_fp32)


@compiled()
def rms_norm(values: Floats, gain: Floats, epsilon: float, out: Floats) -> None:
    """Write values / rms(values) * gain (arXiv 1910.07467)."""
    total = np.float32(0.0)
    for index in range(values.size):
        total += values[index] * values[index]
    factor = np.float32(1.0 / math.sqrt(np.float64(total) / values.size + epsilon))
    for index in range(values.size):
        out[index] = values[index] * factor * gain[index]


@compiled()
def swiglu(gate_up: Floats, out: Floats) -> None:
    """Write silu(gate) * up for gate_up = [gate, up] (arXiv 2002.05202)."""
    size = out.size
    for index in range(size):
        gate = gate_up[index]
        small = exponential(-abs(gate))  # 1 / (1 + e**-gate) without overflow
        sigmoid = (np.float32(1.0) if gate >= np.float32(0.0) else small) / (
            np.float32(1.0) + small
        )
        out[index] = gate * sigmoid * gate_up[size + index]


@compiled()
def rotate(vector: Floats, cosines: Floats, sines: Floats, factor: np.float32) -> None:
    """Rotate the pairs (i, i + half) of one head by its position, in place, times `factor`."""
    half = cosines.size
    for index in range(half):
        first, second = vector[index], vector[half + index]
        vector[index] = (first * cosines[index] - second * sines[index]) * factor
        vector[half + index] = (second * cosines[index] + first * sines[index]) * factor


def _make_panel(num_rows: int, num_blocks: int) -> Panel:
    """Return a kernel: rows, `num_rows` at a time, times a thread's part of a matrix."""
    tile = make_tile(num_rows, num_blocks)

    @compiled()
    def panel(
        inputs: Inputs,
        row_scales: Floats,
        count: int,
        blocks: Stored,
        scales: Floats,
        outputs: Floats,
        is_added: int,
        thread: int,
        num_threads: int,
    ) -> None:
        total, steps, width = blocks.shape
        stride, inputs_stride, outputs_stride = steps * width, inputs.shape[1], outputs.shape[1]
        groups = total // num_blocks
        for group in range(groups * thread // num_threads, groups * (thread + 1) // num_threads):
            block = group * num_blocks
            for row in range(0, count, num_rows):
                tile(
                    blocks, block * stride, stride,
                    inputs, row * inputs_stride, inputs_stride, steps,
                    scales, block * LANES, row_scales, row,
                    outputs, row * outputs_stride + block * LANES, outputs_stride, is_added,
                )  # fmt: skip

    return panel


# One name each: compiled code cannot look a function up in a table.
_panel_1, _panel_2, _panel_3, _panel_4, _panel_5, _panel_6, _panel_8, _panel_10 = (
    _make_panel(rows, blocks) for rows, blocks in TILES.items()
)


@compiled()
def _linear_in_vectors(
    x: Inputs,
    row_scales: Floats,
    count: int,
    blocks: Stored,
    scales: Floats,
    out: Floats,
    is_added: int,
    t: int,
    n: int,
) -> None:
    """Multiply `count` rows by a packed matrix: out = x W^T, or out += x W^T.

    Thread `t` of `n` computes its own columns. Rows are taken in the fewest tiles of equal height;
    up to MAX_TILE_ROWS - 1 rows after the last are computed too and mean nothing.
    """
    tiles = (count + MAX_TILE_ROWS - 1) // MAX_TILE_ROWS
    height = (count + tiles - 1) // tiles
    if height == 1:
        _panel_1(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height == 2:
        _panel_2(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height == 3:
        _panel_3(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height == 4:
        _panel_4(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height == 5:
        _panel_5(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height == 6:
        _panel_6(x, row_scales, count, blocks, scales, out, is_added, t, n)
    elif height <= 8:
        _panel_8(x, row_scales, count, blocks, scales, out, is_added, t, n)
    else:
        _panel_10(x, row_scales, count, blocks, scales, out, is_added, t, n)


_amx_tile, _amx_tiles = make_amx_tile(1), make_amx_tile(2)


@compiled()
def _linear_in_amx(
    x: Inputs,
    row_scales: Floats,
    count: int,
    blocks: Stored,
    scales: Floats,
    out: Floats,
    is_added: int,
    t: int,
    n: int,
) -> None:
    """Do what _linear_in_vectors does, with bytes, on the tile unit."""
    total, groups, width = blocks.shape
    stride, steps, size = x.shape[1], groups * width // STEP_BYTES, groups * width
    configure()
    for block in range(total * t // n, total * (t + 1) // n):
        for row in range(0, count, ROWS_AT_A_TIME):
            rows = min(ROWS_AT_A_TIME, count - row)
            place = row * out.shape[1] + block * LANES
            if rows > TILE_ROWS:
                _amx_tiles(
                    blocks, block * size, x, row * stride, stride, steps, scales, block * LANES,
                    row_scales, row, out, place, out.shape[1], rows, is_added,
                )  # fmt: skip
            else:
                _amx_tile(
                    blocks, block * size, x, row * stride, stride, steps, scales, block * LANES,
                    row_scales, row, out, place, out.shape[1], rows, is_added,
                )  # fmt: skip
    release()


def linear(
    x: Inputs,
    row_scales: Floats,
    count: int,
    blocks: Stored,
    scales: Floats,
    out: Floats,
    is_added: int,
    t: int,
    n: int,
) -> None:
    """Multiply `count` rows by a packed matrix: out = x W^T, or out += x W^T.

    Thread `t` of `n` computes its own columns. Rows of the inputs after the last one may be read,
    rows of the outputs after the last one may be written; they mean nothing.
    """
    raise NotImplementedError  # compiled code only: chosen by the type of the inputs


@overload(linear, strict=False)
def _linear(
    x: Any,  # noqa: ANN401
    row_scales: Any,  # noqa: ANN401
    count: Any,  # noqa: ANN401
    blocks: Any,  # noqa: ANN401
    scales: Any,  # noqa: ANN401
    out: Any,  # noqa: ANN401
    is_added: Any,  # noqa: ANN401
    t: Any,  # noqa: ANN401
    n: Any,  # noqa: ANN401
) -> Callable[..., None]:
    chosen = _linear_in_amx if x.dtype == types.int8 else _linear_in_vectors

    def run(
        x: Inputs,
        row_scales: Floats,
        count: int,
        blocks: Stored,
        scales: Floats,
        out: Floats,
        is_added: int,
        t: int,
        n: int,
    ) -> None:
        chosen(x, row_scales, count, blocks, scales, out, is_added, t, n)

    return run
