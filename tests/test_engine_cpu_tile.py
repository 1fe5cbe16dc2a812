"""Rows times packed columns: exact in integers, close in fp32, the same bits in a tile of any size.

Each height of a tile is reached by its number of rows.
"""

from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from kernel_entries import kept
from numpy.typing import NDArray

from stentor.engine.cpu import tile
from stentor.engine.cpu.amx import HAS_AMX, ROWS_AT_A_TIME
from stentor.engine.cpu.linear import linear
from stentor.engine.cpu.packing import (
    INT8_LIMIT,
    INT16_LIMIT,
    Floats,
    Inputs,
    Layout,
    PackedMatrix,
    Stored,
    make_inputs,
    pack_matrices,
)
from stentor.engine.cpu.tile import HAS_AVX2, HAS_AVX512, LANES, MAX_TILE_ROWS, TILES, make_tile

NUM_BLOCKS = 19  # padded to whole tiles
HEIGHTS = sorted({*TILES, MAX_TILE_ROWS + 1, 3 * MAX_TILE_ROWS, 23, 37})
needs_amx = pytest.mark.skipif(not HAS_AMX, reason="no tile unit (AMX) here")
INT8_LAYOUTS = [Layout.PAIRS, pytest.param(Layout.QUADS, marks=needs_amx)]
LAYOUTS = [*INT8_LAYOUTS, Layout.FLOATS]


@kept
def multiply(
    x: Inputs,
    row_scales: Floats,
    count: int,
    blocks: Stored,
    scales: Floats,
    out: Floats,
    is_added: int,
    n: int,
) -> None:
    """Multiply with the shares of `n` threads, one after the other."""
    for thread in range(n):
        linear(x, row_scales, count, blocks, scales, out, is_added, thread, n)


LAYOUT_OF_WIDTH = {LANES * layout.value: layout for layout in Layout}


class Product(NamedTuple):
    """A matrix [outputs, inputs] and rows [rows, inputs] of whole numbers that fit into int8."""

    weights: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def expected(self) -> NDArray[np.int64]:
        return self.rows @ self.weights.T


def whole_numbers(num_rows: int, num_outputs: int, num_inputs: int, seed: int = 0) -> Product:
    numbers = np.random.default_rng(seed)
    weights = numbers.integers(-INT8_LIMIT, INT8_LIMIT + 1, (num_outputs, num_inputs))
    weights[:, 0] = INT8_LIMIT  # so that a whole number is stored as itself: all scales are 1
    return Product(weights, numbers.integers(-2000, 2001, (num_rows, num_inputs)))


def pack(weights: NDArray[np.int64] | NDArray[np.float64], layout: Layout) -> PackedMatrix:
    return pack_matrices([torch.from_numpy(weights).float()], layout)


def fill(x: Inputs, rows: NDArray[np.int64] | Floats) -> None:
    """Write rows as `linear` reads them; beside them everything is noise."""
    numbers = np.random.default_rng(1)
    x[:] = numbers.integers(-128, 128, x.shape)
    count, num_inputs = rows.shape
    if x.dtype != np.int8:
        x[:count, :num_inputs] = rows
        return
    whole, half = np.asarray(rows).astype(np.int64), x.shape[1] // 2
    x[:count, :num_inputs] = whole >> 8
    x[:count, half : half + num_inputs] = (whole & 255).astype(np.uint8).view(np.int8)


def product_of(
    matrix: PackedMatrix,
    rows: NDArray[np.int64] | Floats,
    *,
    row_scales: Floats | None = None,
    added_to: float | None = None,
    num_threads: int = 1,
) -> Floats:
    """Return rows x matrix [rows, padded outputs]."""
    count, num_inputs = rows.shape
    num_rows = count + ROWS_AT_A_TIME
    x = make_inputs(num_rows, num_inputs, LAYOUT_OF_WIDTH[matrix.blocks.shape[3]])
    fill(x, rows)
    scales = np.ones(num_rows, np.float32)
    if row_scales is not None:
        scales[:count] = row_scales
    start = np.nan if added_to is None else added_to
    out = np.full((num_rows, matrix.scales.shape[1]), start, np.float32)
    is_added = int(added_to is not None)
    multiply(x, scales, count, matrix.blocks[0], matrix.scales[0], out, is_added, num_threads)
    return out[:count]


@pytest.mark.parametrize("num_inputs", [1, 2, 7, 64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tile_gives_the_exact_product_of_whole_numbers(
    layout: Layout, num_inputs: int
) -> None:
    """Sums below 2**24 are exact in fp32 too; odd sizes are padded; nothing is read beside."""
    num_outputs = NUM_BLOCKS * LANES - 5
    for height in HEIGHTS:
        product = whole_numbers(height, num_outputs, num_inputs)
        matrix = pack(product.weights, layout)
        received = product_of(matrix, product.rows)
        assert np.array_equal(received[:, :num_outputs], product.expected.astype(np.float32))
        assert not received[:, num_outputs:].any(), "columns of padding are 0"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_product_is_added_to_what_is_there_or_replaces_it(layout: Layout) -> None:
    product = whole_numbers(5, 40, 12)
    matrix = pack(product.weights, layout)
    expected = product.expected.astype(np.float32)
    added = product_of(matrix, product.rows, added_to=1.0)[:, :40]
    assert np.array_equal(added, expected + 1)
    replaced = product_of(matrix, product.rows)[:, :40]
    assert np.array_equal(replaced, expected), "NaN was there"


@pytest.mark.parametrize("is_added", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_row_has_the_same_bits_in_every_tile_and_for_every_number_of_threads(
    layout: Layout, is_added: bool
) -> None:
    numbers = np.random.default_rng(4)
    weights = torch.from_numpy(numbers.normal(size=(NUM_BLOCKS * LANES, 75))).float()
    matrix = pack_matrices([weights], layout)
    rows = numbers.normal(size=(max(HEIGHTS), 75)).astype(np.float32)
    scales = numbers.uniform(1e-4, 1e-3, max(HEIGHTS)).astype(np.float32)
    if layout is not Layout.FLOATS:
        rows = np.round(rows * 5000)
    start = 0.3 if is_added else None
    alone = np.concatenate(
        [
            product_of(matrix, rows[i : i + 1], row_scales=scales[i : i + 1], added_to=start)
            for i in range(len(rows))
        ]
    )
    for height in HEIGHTS:
        for num_threads in (1, 2, 3, 40):
            received = product_of(
                matrix,
                rows[:height],
                row_scales=scales[:height],
                added_to=start,
                num_threads=num_threads,
            )
            assert np.array_equal(received, alone[:height])


@pytest.mark.parametrize("num_inputs", [1, 64, 513, 517, 1024, 4099])
@pytest.mark.parametrize("layout", INT8_LAYOUTS)
def test_the_largest_sums_stay_within_32_bits(layout: Layout, num_inputs: int) -> None:
    """All weights and activations at their limits, in each pairing of signs."""
    weights = INT8_LIMIT * np.ones((4, num_inputs), np.int64)
    weights[1] *= -1
    weights[2, ::2] *= -1
    matrix = pack(weights, layout)
    rows = int(matrix.limit) * np.ones((3, num_inputs), np.int64)
    rows[1] *= -1
    rows[2, ::2] *= -1
    expected = rows @ weights.T
    assert abs(expected).max() < 2**31
    assert np.array_equal(product_of(matrix, rows)[:, :4], expected.astype(np.float32))
    if num_inputs > 2:
        assert abs(expected).max() > 0.95 * 2**31 or matrix.limit == INT16_LIMIT, "no bit is wasted"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_of_real_numbers_are_those_of_float64(layout: Layout) -> None:
    numbers = np.random.default_rng(6)
    weights, rows = numbers.normal(size=(70, 300)), numbers.normal(size=(9, 300))
    matrix = pack(weights, layout)
    if layout is Layout.FLOATS:
        received, size = product_of(matrix, rows.astype(np.float32)), 1e-4
    else:
        row_scales = (abs(rows).max(axis=1) / 8000).astype(np.float32)
        whole = np.round(rows / row_scales[:, None])
        # Each weight is off by half a step at most: 3 standard deviations of 300 such errors.
        received = product_of(matrix, whole, row_scales=row_scales)
        size = 3 * abs(weights).max() / INT8_LIMIT / np.sqrt(12) * np.sqrt(300)
    assert abs(received[:, :70] - rows @ weights.T).max() < size


@pytest.mark.parametrize(
    ("has_avx512", "has_avx2"),
    [
        pytest.param(
            True, True, marks=pytest.mark.skipif(not HAS_AVX512, reason="no AVX-512 here")
        ),
        pytest.param(False, True, marks=pytest.mark.skipif(not HAS_AVX2, reason="no AVX2 here")),
        pytest.param(False, False),
    ],
    ids=["avx512", "avx2", "portable"],
)
def test_the_instructions_of_every_processor_give_the_same_integers(
    monkeypatch: pytest.MonkeyPatch, has_avx512: bool, has_avx2: bool
) -> None:
    """A tile compiled for an older processor, on this one, at the extremes of the numbers."""
    monkeypatch.setattr(tile, "HAS_AVX512", has_avx512)
    monkeypatch.setattr(tile, "HAS_AVX2", has_avx2)
    two_rows = make_tile(2, 1)

    @numba.njit  # type: ignore[untyped-decorator] # Numba has no types of its own
    def compute(
        weights: Stored, x: Inputs, scales: Floats, row_scales: Floats, out: Floats
    ) -> None:
        steps, stride = weights.shape[1], weights.shape[1] * weights.shape[2]
        two_rows(
            weights, 0, stride, x, 0, x.shape[1], steps, scales, 0, row_scales, 0,
            out, 0, out.shape[1], 0,
        )  # fmt: skip

    product = whole_numbers(2, LANES, 10)
    product.rows[0, ::3] = INT16_LIMIT
    product.rows[1, ::2] = -INT16_LIMIT
    product.weights[3] = -INT8_LIMIT
    matrix = pack(product.weights, Layout.PAIRS)
    out, ones = np.empty((2, LANES), np.float32), np.ones(LANES, np.float32)
    compute(matrix.blocks[0], product.rows.astype(np.int16), ones, ones, out)
    assert np.array_equal(out, product.expected.astype(np.float32))


@needs_amx
@pytest.mark.parametrize("num_inputs", [45, 64, 300])
def test_the_tile_unit_gives_the_bits_of_the_vectors(num_inputs: int) -> None:
    """A text must not depend on the processor that computed it."""
    numbers = np.random.default_rng(8)
    weights = numbers.normal(size=(NUM_BLOCKS * LANES, num_inputs))
    pairs, quads = pack(weights, Layout.PAIRS), pack(weights, Layout.QUADS)
    assert pairs.limit == quads.limit
    limit = int(pairs.limit)
    for height in HEIGHTS:
        rows = numbers.integers(-limit, limit + 1, (height, num_inputs))
        scales = numbers.uniform(1e-4, 1e-3, height).astype(np.float32)
        in_vectors = product_of(pairs, rows, row_scales=scales, added_to=0.5)
        in_tiles = product_of(quads, rows, row_scales=scales, added_to=0.5)
        assert np.array_equal(in_vectors, in_tiles)
