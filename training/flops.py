"""Arithmetic of a training step, counted, and the fastest this machine multiplies, measured.

Their quotient over time is model FLOPs utilisation (MFU, arXiv 2204.02311). Knows no training.
"""

import math
import time

import torch

from stentor.loading import LlamaShape

# Outputs, inputs and rows of the product: large enough for the fastest rate, small enough to time.
CEILING_SIZE = {"cpu": 1536, "cuda": 8192}
CEILING_ROUNDS = 10


def num_matrix_parameters(shape: LlamaShape) -> int:
    """Return the weights that multiply every token: all matrices but the embedding's look-up."""
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    attention = shape.hidden_size * (2 * queries + 2 * keys)
    mlp = 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_layers * (attention + mlp) + shape.vocab_size * shape.hidden_size


def training_flops_per_token(shape: LlamaShape, window_tokens: int = 512) -> float:
    """Return the floating-point operations that training on one token takes, forward and backward.

    A matrix of n weights takes 2 n forward (a multiplication and an addition each), and 4 n
    backward: 2 n for the gradient of its inputs and 2 n for its own (arXiv 2001.08361). Attention
    multiplies each query with the keys, and the weights with the values: 4 x heads x head_dim per
    pair of positions forward and twice that backward. A token looks at itself and those before it,
    (window + 1) / 2 on average; the other half is not counted, as it needs not be computed (PaLM
    counts it). Neither are norms, activations, the optimizer and what gradient checkpointing
    computes twice.
    """
    pairs = (window_tokens + 1) / 2
    attention = 12 * shape.num_layers * shape.num_heads * shape.head_dim * pairs
    return 6 * num_matrix_parameters(shape) + attention


def measure_matmul_ceiling(
    device: torch.device, precision: str, seconds: float = math.inf
) -> float:
    """Return FLOP/s of a large square matrix product in `fp32` or `bf16`: the best of several.

    `seconds`: about what it may take; a device that is slow at this precision, as many processors
    are at bf16, is measured with a smaller product.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = CEILING_SIZE.get(device.type, CEILING_SIZE["cpu"])
    deadline = time.perf_counter() + seconds
    if math.isfinite(seconds):
        size = _affordable_size(device, dtype, size, seconds / 2)
    best, num_rounds = math.inf, 0
    operands = _operands(device, dtype, size)
    while num_rounds < CEILING_ROUNDS and (not num_rounds or time.perf_counter() + best < deadline):
        best = min(best, _seconds_of_product(operands))
        num_rounds += 1
    return 2.0 * size**3 / best


def _affordable_size(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> int:
    """Return the size halved until its product takes at most `seconds`, judged by an eighth."""
    smallest = size // 8
    operands = _operands(device, dtype, smallest)
    _seconds_of_product(operands)  # the first one starts libraries
    expected = _seconds_of_product(operands) * 8**3
    while expected > seconds and size > smallest:
        size, expected = size // 2, expected / 8
    return size


def _operands(device: torch.device, dtype: torch.dtype, size: int) -> tuple[torch.Tensor, ...]:
    """Return two square matrices and room for their product."""
    return tuple(torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(3))


def _seconds_of_product(operands: tuple[torch.Tensor, ...]) -> float:
    left, right, product = operands
    started = time.perf_counter()
    torch.mm(left, right, out=product)
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
    return time.perf_counter() - started
