"""Matrix products of fp32 tensors on a CPU, rounded to bf16 where it has units for that.

oneDNN rounds the factors as it packs them and adds up in fp32, so that no copies in bf16 are made
and everything else stays fp32. A processor without such units computes in fp32, at its own speed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def bf16_products() -> Iterator[None]:
    """Let the block's products of fp32 tensors on a CPU round their factors to bf16."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined] # made at run time
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
