"""Products of a block of queries with the keys and values before it: nothing beyond the diagonal.

All arrays are flat: rows of one head, `dim` long, or rows of scores, `stride` long. Knows no
softmax and no layout of a whole layer.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.tile import LANES
from training.kernels.tile import BLOCKS, ROWS, make_tile

Floats = NDArray[np.float32]
QUERIES = 64  # of a block: their scores against 512 keys take 132 KiB
KEYS = 64  # of a block of values: 16 KiB, which stay in the first-level cache
WIDE = BLOCKS * LANES  # columns of a tile
_wide, _narrow = make_tile(ROWS, BLOCKS), make_tile(ROWS, 1)
_wide_row, _narrow_row = make_tile(1, BLOCKS), make_tile(1, 1)


class Sizes(NamedTuple):
    """What every function of attention needs to know."""

    length: int
    num_heads: int
    num_groups: int  # heads of keys and values, each for num_heads / num_groups queries
    head_dim: int  # a multiple of LANES
    stride: int  # elements between rows of scores and of transposed keys


@compiled()
def sizes_of(length: int, num_heads: int, num_groups: int, head_dim: int) -> Sizes:
    """Return the sizes with a stride that holds whole tiles."""
    # Not a power of two, or the rows of a column would share one set of the cache.
    return Sizes(
        length, num_heads, num_groups, head_dim, (length + WIDE - 1) // WIDE * WIDE + LANES
    )


@compiled()
def _product(
    columns: Floats,
    columns_offset: int,
    columns_step: int,
    width: int,
    inputs: Floats,
    inputs_offset: int,
    inputs_row: int,
    inputs_step: int,
    is_one_row: bool,
    num_steps: int,
    outputs: Floats,
    outputs_offset: int,
    outputs_row: int,
    is_added: int,
) -> None:
    """Multiply ROWS rows, or one, by `width` columns, a multiple of LANES; see make_tile."""
    column = 0
    while column < width:
        start, end = columns_offset + column, outputs_offset + column
        if column + WIDE <= width:
            if is_one_row:
                _wide_row(
                    columns, start, columns_step, inputs, inputs_offset, inputs_row, inputs_step,
                    num_steps, outputs, end, outputs_row, is_added,
                )  # fmt: skip
            else:
                _wide(
                    columns, start, columns_step, inputs, inputs_offset, inputs_row, inputs_step,
                    num_steps, outputs, end, outputs_row, is_added,
                )  # fmt: skip
            column += WIDE
        else:
            if is_one_row:
                _narrow_row(
                    columns, start, columns_step, inputs, inputs_offset, inputs_row, inputs_step,
                    num_steps, outputs, end, outputs_row, is_added,
                )  # fmt: skip
            else:
                _narrow(
                    columns, start, columns_step, inputs, inputs_offset, inputs_row, inputs_step,
                    num_steps, outputs, end, outputs_row, is_added,
                )  # fmt: skip
            column += LANES


@compiled()
def score_block(
    rows: Floats, transposed: Floats, first: int, num_rows: int, sizes: Sizes, scores: Floats
) -> None:
    """Multiply a block of rows by all keys (or values) up to the diagonal: `first` is its query."""
    dim, stride = sizes.head_dim, sizes.stride
    column = 0
    while column < first + num_rows:
        row = max(0, column - first) // ROWS * ROWS
        while row < num_rows:
            is_one_row = row + ROWS > num_rows
            _product(
                transposed, column, stride, WIDE, rows, row * dim, dim, 1, is_one_row, dim,
                scores, row * stride + column, stride, 0,
            )  # fmt: skip
            row += 1 if is_one_row else ROWS
        column += WIDE


@compiled()
def weighted_sum(
    scores: Floats, values: Floats, first: int, num_rows: int, sizes: Sizes, outputs: Floats
) -> None:
    """Replace a block of outputs by scores x values, up to the diagonal."""
    dim, stride = sizes.head_dim, sizes.stride
    for start in range(0, first + num_rows, KEYS):
        row = max(0, start - first) // ROWS * ROWS
        while row < num_rows:
            is_one_row = row + ROWS > num_rows
            last = first + row + (1 if is_one_row else ROWS)
            _product(
                values, start * dim, dim, dim, scores, row * stride + start, stride, 1, is_one_row,
                min(start + KEYS, last) - start, outputs, row * dim, dim, start,
            )  # fmt: skip
            row += 1 if is_one_row else ROWS


@compiled()
def add_transposed(
    scores: Floats, rows: Floats, first: int, num_rows: int, sizes: Sizes, outputs: Floats
) -> None:
    """Add scores, transposed, x a block of rows to the outputs of all keys up to the diagonal."""
    dim, stride = sizes.head_dim, sizes.stride
    key, end = 0, first + num_rows
    while key < end:
        is_one_row = key + ROWS > end
        row = max(0, key - first)
        _product(
            rows, row * dim, dim, dim, scores, row * stride + key, 1, stride, is_one_row,
            num_rows - row, outputs, key * dim, dim, 1,
        )  # fmt: skip
        key += 1 if is_one_row else ROWS
