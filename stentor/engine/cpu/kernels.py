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

from stentor.engine.cpu.compiled import EXACT, compiled
from stentor.engine.cpu.packing import Floats, Inputs

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


@compiled(EXACT)
def _fit(values: Floats, limit: float, scales: Floats, row: int) -> np.float32:
    """Return what makes whole numbers up to `limit` of the values; keep its inverse in scales."""
    largest = _largest_magnitude(values)
    # A NaN would be lost in the integers; in the scale it reaches every output.
    scales[row] = largest / np.float32(limit) + not_finite(values)
    return np.float32(limit) / largest if largest > np.float32(0.0) else np.float32(0.0)


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
        factor = _fit(values, limit, scales, row)
        for index in range(values.size):
            inputs[row, index] = np.int16(np.int32(nearest(values[index] * factor)))

    def store_fp32(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
        for index in range(values.size):
            inputs[row, index] = values[index]

    def store_bytes(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
        factor = _fit(values, limit, scales, row)
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
