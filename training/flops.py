"""Arithmetic of a training step, counted, and the fastest this machine multiplies, measured.

Their quotient over time is model FLOPs utilisation (MFU, arXiv 2204.02311). Knows no training.
"""

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


def measure_matmul_ceiling(device: torch.device, precision: str) -> float:
    """Return FLOP/s of a large square matrix product in `fp32` or `bf16`: the best of several."""
    size = CEILING_SIZE.get(device.type, CEILING_SIZE["cpu"])
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.full((size, size), 0.5, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    best = float("inf")
    for _ in range(CEILING_ROUNDS):
        started = time.perf_counter()
        torch.mm(left, right, out=product)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
