"""Rows of activations times a packed matrix: in vector registers, or on the tile unit.

Every output is computed by one thread in an order that depends on its own row alone, so it does not
matter how many rows there are, which tile a row is in, or how the columns are shared out.
"""

from collections.abc import Callable
from typing import Any

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
from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.packing import Floats, Inputs, Stored
from stentor.engine.cpu.tile import LANES, MAX_TILE_ROWS, TILES, make_tile

Panel = Callable[..., None]


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
    return _linear_in_amx if x.dtype == types.int8 else _linear_in_vectors
