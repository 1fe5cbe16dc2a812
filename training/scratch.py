"""What the fused operators of a network share: buffers, and the precision of their products."""

from contextlib import nullcontext

import torch
from torch import Tensor

from training.products import bf16_products


class Scratch:
    """Buffers that are free again when an operator ends: the system clears new memory slowly."""

    def __init__(self, *, has_bf16_products: bool = False) -> None:
        """Take the precision of the products with the buffers that they are written to."""
        self._buffers: dict[str, Tensor] = {}
        self.products = bf16_products if has_bf16_products else nullcontext

    def take(self, name: str, *shape: int) -> Tensor:
        """Return the buffer of this name, with whatever it holds."""
        size = torch.Size(shape).numel()
        held = self._buffers.get(name)
        if held is None or held.numel() < size:
            # A tensor made in inference mode could not be used in training afterwards.
            with torch.inference_mode(False):
                held = self._buffers[name] = torch.empty(size)
        return held[:size].view(shape)
