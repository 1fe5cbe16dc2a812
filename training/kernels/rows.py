"""Operators that work row by row: RMSNorm, SwiGLU and cross-entropy, forward and backward.

A kernel's arguments are listed in its docstring; all arrays are contiguous fp32 but for tokens.
"""

import math

import numpy as np
from numba import carray
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.kernels import exponential, largest_value
from training.kernels.team import Arguments, floats, next_piece

# Rows of a piece: enough work for microseconds, and pieces enough for many threads.
PIECE_ROWS = 64
PIECE_NUMBERS = 16_384
BLOCK_NUMBERS = 1024  # of six arrays: 24 KiB, which stay in the first-level cache
Floats = NDArray[np.float32]


@compiled()
def _inverse_rms(row: Floats, epsilon: float) -> np.float32:
    total = np.float32(0.0)
    for index in range(row.size):
        total += row[index] * row[index]
    return np.float32(1.0 / math.sqrt(np.float64(total) / row.size + epsilon))


def rms_norm(arguments: Arguments) -> None:
    """Write inputs / rms(inputs) * gain (arXiv 1910.07467).

    Arguments: inputs (rows, size), gain (size), epsilon (bits of an fp64), rows, size;
    outputs (rows, size), inverse_rms (rows).
    """
    given = carray(arguments, 8)
    rows, size = given[4], given[5]
    inputs, gain = floats(given[1], rows * size), floats(given[2], size)
    outputs, inverse_rms = floats(given[6], rows * size), floats(given[7], rows)
    epsilon = given[3:4].view(np.float64)[0]
    piece = next_piece(arguments)
    while piece * PIECE_ROWS < rows:
        for row in range(piece * PIECE_ROWS, min(rows, (piece + 1) * PIECE_ROWS)):
            values = inputs[row * size : (row + 1) * size]
            out = outputs[row * size : (row + 1) * size]
            factor = _inverse_rms(values, epsilon)
            inverse_rms[row] = factor
            for index in range(size):
                out[index] = values[index] * factor * gain[index]
        piece = next_piece(arguments)


@compiled()
def _rms_norm_row(
    values: Floats, factor: np.float32, gain: Floats, above: Floats, added: Floats, out: Floats
) -> None:
    size = values.size
    total = np.float32(0.0)
    for index in range(size):
        total += above[index] * gain[index] * values[index]
    shift = total * factor * factor * factor / np.float32(size)
    for index in range(size):
        out[index] = added[index] + above[index] * gain[index] * factor - values[index] * shift


def rms_norm_backward(arguments: Arguments) -> None:
    """Write the gradient of the inputs of rms_norm plus what came around it, and of its gain.

    Arguments: inputs (rows, size), gain (size), inverse_rms (rows), rows, size; gradient of the
    outputs (rows, size), gradient to add (rows, size); gradient of the inputs (rows, size),
    gradient of the gain of each piece (pieces, size): the caller adds these up in their order.
    """
    given = carray(arguments, 10)
    rows, size = given[4], given[5]
    inputs, gain = floats(given[1], rows * size), floats(given[2], size)
    inverse_rms = floats(given[3], rows)
    above, added = floats(given[6], rows * size), floats(given[7], rows * size)
    outputs = floats(given[8], rows * size)
    of_gain = floats(given[9], (rows + PIECE_ROWS - 1) // PIECE_ROWS * size)
    piece = next_piece(arguments)
    while piece * PIECE_ROWS < rows:
        sums = of_gain[piece * size : (piece + 1) * size]
        sums[:] = np.float32(0.0)
        for row in range(piece * PIECE_ROWS, min(rows, (piece + 1) * PIECE_ROWS)):
            start, end = row * size, (row + 1) * size
            values, factor, gradient = inputs[start:end], inverse_rms[row], above[start:end]
            _rms_norm_row(values, factor, gain, gradient, added[start:end], outputs[start:end])
            for index in range(size):
                sums[index] += gradient[index] * values[index] * factor
        piece = next_piece(arguments)


@compiled()
def _sigmoid(value: np.float32) -> np.float32:
    return np.float32(1.0) / (np.float32(1.0) + exponential(-value))


def swiglu(arguments: Arguments) -> None:
    """Write silu(gate) * up (arXiv 2002.05202). Arguments: gate, up, how many; outputs."""
    given = carray(arguments, 5)
    count = given[3]
    gate, up, outputs = floats(given[1], count), floats(given[2], count), floats(given[4], count)
    piece = next_piece(arguments)
    while piece * PIECE_NUMBERS < count:
        for index in range(piece * PIECE_NUMBERS, min(count, (piece + 1) * PIECE_NUMBERS)):
            outputs[index] = gate[index] * _sigmoid(gate[index]) * up[index]
        piece = next_piece(arguments)


def swiglu_backward(arguments: Arguments) -> None:
    """Write the outputs of swiglu again, and the gradients of gate and up.

    Arguments: gate, up, how many, gradient of the outputs, replaced by that of gate; gradient of
    up; outputs.
    """
    given = carray(arguments, 7)
    count = given[3]
    gate, up, of_gate = floats(given[1], count), floats(given[2], count), floats(given[4], count)
    of_up, outputs = floats(given[5], count), floats(given[6], count)
    sigmoids = np.empty(BLOCK_NUMBERS, np.float32)
    piece = next_piece(arguments)
    while piece * PIECE_NUMBERS < count:
        last = min(count, (piece + 1) * PIECE_NUMBERS)
        for start in range(piece * PIECE_NUMBERS, last, BLOCK_NUMBERS):
            end = min(last, start + BLOCK_NUMBERS)
            _swiglu_backward(
                gate[start:end], up[start:end], of_gate[start:end], of_up[start:end],
                outputs[start:end], sigmoids[: end - start],
            )  # fmt: skip
        piece = next_piece(arguments)


@compiled()
def _swiglu_backward(
    gate: Floats, up: Floats, of_gate: Floats, of_up: Floats, outputs: Floats, sigmoids: Floats
) -> None:
    """See swiglu_backward. LLVM vectorises no loop that writes three arrays and reads others."""
    for index in range(gate.size):
        sigmoids[index] = _sigmoid(gate[index])
    for index in range(gate.size):
        outputs[index] = gate[index] * sigmoids[index] * up[index]
    for index in range(gate.size):
        of_up[index] = of_gate[index] * gate[index] * sigmoids[index]
    for index in range(gate.size):
        sigmoid = sigmoids[index]
        slope = sigmoid + gate[index] * sigmoid * (np.float32(1.0) - sigmoid)
        of_gate[index] = of_gate[index] * up[index] * slope


@compiled()
def _exponentials(row: Floats) -> tuple[np.float32, np.float32]:
    """Replace logits by e ** (logit - largest); return their sum and the largest."""
    largest, total = largest_value(row), np.float32(0.0)
    for index in range(row.size):
        value = row[index] - largest
        # The exponential of a NaN is 0: its product with 0 is not.
        total += exponential(value) + value * np.float32(0.0)
        row[index] = exponential(value)
    return total, largest


def cross_entropy(arguments: Arguments) -> None:
    """Write -log softmax(logits)[target] of each row, and its gradient over the logits.

    Arguments: logits (rows, size), targets (rows, int64; negative: the row counts nothing), rows,
    size, rows that count (of all calls together); losses (rows).
    """
    given = carray(arguments, 7)
    rows, size = given[3], given[4]
    logits, losses = floats(given[1], rows * size), floats(given[6], rows)
    targets = floats(given[2], 2 * rows).view(np.int64)
    scale = np.float32(1.0 / given[5])
    row = next_piece(arguments)
    while row < rows:
        values, target = logits[row * size : (row + 1) * size], targets[row]
        if target < 0:
            values[:] = np.float32(0.0)
            losses[row] = np.float32(0.0)
        else:
            logit = values[target]
            total, largest = _exponentials(values)
            losses[row] = np.float32(math.log(total) + np.float64(largest) - np.float64(logit))
            factor = scale / total
            for index in range(size):
                values[index] *= factor
            values[target] -= scale
        row = next_piece(arguments)
