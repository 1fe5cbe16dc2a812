"""What the machine can do at most, measured: memory it can read, products it can add up, a second.

A decoder with one user reads all weights for each token; with many users it multiplies. Which share
of either limit it reaches is the honest measure of how much faster it could be.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stentor.engine.cpu.amx import ROWS_AT_A_TIME
from stentor.engine.cpu.compiled import compiled_entry
from stentor.engine.cpu.linear import linear
from stentor.engine.cpu.packing import (
    Floats,
    Inputs,
    PackedMatrix,
    aligned,
    layout_of,
    make_inputs,
    pack_matrices,
)
from stentor.engine.cpu.tile import LANES
from stentor.loading import LlamaShape, tensor_shapes_of

MEASURE_SECONDS = 0.4
# Larger than the caches that a virtual machine of a few cores can call its own.
LARGE_BYTES = 1 << 30
PASS_BYTES = 64 << 20  # of one call, so that starting threads does not count
CHUNK = 4096  # numbers
# A product of these sizes stays in the second-level cache.
PRODUCT_ROWS, PRODUCT_OUTPUTS, PRODUCT_INPUTS = 30, 512, 512
PRODUCT_REPEATS = 200
MATRIX_SIZE, GPU_MATRIX_SIZE = 1536, 8192
WEIGHT_BYTES = {"int8": 1, "fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Limits:
    """Of this machine with so many threads, a second; a multiply-add is two operations."""

    num_threads: int
    read_bytes: float  # of LARGE_BYTES
    multiply_adds: dict[str, float]  # by precision: the decoder's own innermost loop
    matrix_product_operations: float  # PyTorch: fp32 on a CPU, bf16 on a GPU


def measure_limits(precision: str, num_threads: int) -> Limits:
    """Measure the limits of what computes in this precision."""
    if precision == "bf16":
        operations = _matrix_product(torch.device("cuda"), torch.bfloat16, GPU_MATRIX_SIZE)
        reads = measure_reads(LARGE_BYTES, precision, num_threads)
        return Limits(num_threads, reads, {"bf16": operations / 2}, operations)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    operations = _matrix_product(torch.device("cpu"), torch.float32, MATRIX_SIZE)
    torch.set_num_threads(before)
    return Limits(
        num_threads,
        measure_reads(LARGE_BYTES, precision, num_threads),
        {kind: _multiply_adds(kind, num_threads) for kind in ("int8", "fp32")},
        operations,
    )


def measure_reads(num_bytes: int, precision: str, num_threads: int) -> float:
    """Return the bytes a second at which all threads read an array of this size again and again.

    A small one stays in the caches: that is the limit of a small model.
    """
    if precision == "bf16":
        array = torch.ones(num_bytes // 4, device="cuda")
        return _rate(lambda: float(array.sum()), 4 * array.numel())
    count = max(1, num_bytes // 8 // num_threads // CHUNK) * CHUNK
    parts = [np.ones(count, np.int64) for _ in range(num_threads)]
    passes = max(1, PASS_BYTES // (8 * count * num_threads))
    with ThreadPoolExecutor(num_threads) as pool:
        return _rate(
            lambda: list(pool.map(lambda part: _sum_repeatedly(part, passes), parts)),
            8 * count * num_threads * passes,
        )


def weight_bytes(shape: LlamaShape, precision: str) -> int:
    """Return the bytes of weights that one token needs: every matrix, the head, no embedding."""
    return count_multiply_adds(shape, 1, 0) * WEIGHT_BYTES[precision]


def count_multiply_adds(shape: LlamaShape, num_answers: int, num_others: int) -> int:
    """Return the products with weights for tokens that are answered and others, that are only read.

    Attention is left out: it has no weights, and little to do in a short context.
    """
    sizes = tensor_shapes_of(shape)
    layers = sum(
        rows * columns
        for name, (rows, *rest) in sizes.items()
        for columns in rest
        if name.startswith("model.layers.")
    )
    head = shape.vocab_size * shape.hidden_size
    return layers * (num_answers + num_others) + head * num_answers


@compiled_entry
def _sum_repeatedly(values: NDArray[np.int64], passes: int) -> int:
    total = 0
    for number in range(passes):
        for index in range(values.size):
            total += values[index] ^ number
    return total


@compiled_entry
def _multiply_repeatedly(
    inputs: Inputs, row_scales: Floats, matrix: PackedMatrix, outputs: Floats, repeats: int
) -> None:
    for _ in range(repeats):
        for layer in range(matrix.blocks.shape[0]):
            linear(
                inputs, row_scales, PRODUCT_ROWS, matrix.blocks[layer], matrix.scales[layer],
                outputs, matrix.is_added, 0, 1,
            )  # fmt: skip


def _multiply_adds(precision: str, num_threads: int) -> float:
    """Return the multiply-adds a second of the decoder's own product within the caches."""
    layout = layout_of(precision)
    matrix = pack_matrices([torch.ones(PRODUCT_OUTPUTS, PRODUCT_INPUTS)], layout)

    def work() -> None:
        num_rows = PRODUCT_ROWS + ROWS_AT_A_TIME  # a tile may reach beyond the last row
        inputs = make_inputs(num_rows, PRODUCT_INPUTS, layout)
        inputs[:] = 1
        row_scales = np.ones(num_rows, np.float32)
        outputs = aligned((num_rows, matrix.scales.shape[1] + LANES), np.float32)
        _multiply_repeatedly(inputs, row_scales, matrix, outputs, PRODUCT_REPEATS)

    per_call = PRODUCT_ROWS * PRODUCT_OUTPUTS * PRODUCT_INPUTS * PRODUCT_REPEATS
    with ThreadPoolExecutor(num_threads) as pool:
        return _rate(
            lambda: [task.result() for task in [pool.submit(work) for _ in range(num_threads)]],
            per_call * num_threads,
        )


def _matrix_product(device: torch.device, kind: torch.dtype, size: int) -> float:
    """Return the operations a second of a square matrix product."""
    first, second = (torch.ones(size, size, dtype=kind, device=device) for _ in range(2))
    return _rate(lambda: float((first @ second)[0, 0]), 2 * size**3)


def _rate(work: Callable[[], object], amount: float) -> float:
    """Return amount a second, the best of some calls after a first one that does not count."""
    work()
    seconds: list[float] = []
    while sum(seconds) < MEASURE_SECONDS or len(seconds) < 3:
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return amount / min(seconds)
