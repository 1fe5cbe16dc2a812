"""Muon: momentum made orthogonal for the matrices of the layers, AdamW for everything else.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the scale of
the steps and the decay are those of arXiv:2502.16982, so that one learning rate serves both parts.
torch.optim.Muon computes in bf16 wherever it is, which a processor without units for that does
hundreds of times slower, and takes one matrix at a time: 1.5 times the time of this one where there
are such units (11.5 M parameters, 2 cores). Knows no schedule and no files.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from stentor.engine.cpu.tile import FEATURES

MOMENTUM = 0.95
# The quintic (Jordan) that pulls singular values towards 1: in 5 steps from 0.005 to 0.7 or more.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
# A step of Muon gets the root mean square that steps of AdamW have (arXiv:2502.16982, section 2).
STEP_RMS = 0.2
EPSILON = 1e-7
# Weights of the matrices taken at once. On a CPU such that all of it stays in the caches and in
# memory that is there already: 90 ms a step instead of 283 with all at once (as above).
CHUNK = {"cpu": 1 << 19, "cuda": 1 << 25}


class Muon(torch.optim.Optimizer):
    """Muon for `matrices`, and `adamw` for what that one was made with.

    State of a matrix: `momentum_buffer`, of its shape; of the others: what AdamW keeps.
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        adamw: torch.optim.AdamW,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        own = {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay}
        super().__init__([own, *adamw.param_groups], {})
        # One state and one set of groups, so that rates, checkpoints and moments see no parts.
        adamw.state = self.state
        adamw.param_groups = self.param_groups[1:]
        self._adamw = adamw

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with the gradients there are; no closure, which the loop has no use for."""
        own = self.param_groups[0]
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in own["params"]:
            if matrix.grad is not None:
                by_shape[matrix.shape].append(matrix)
        for shape, matrices in by_shape.items():
            size = max(1, CHUNK.get(matrices[0].device.type, CHUNK["cpu"]) // shape.numel())
            for first in range(0, len(matrices), size):
                self._step(matrices[first : first + size], own["lr"], own["weight_decay"])
        self._adamw.step()

    def _step(self, matrices: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        """Move matrices of one shape; Nesterov's momentum, decoupled decay."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        buffers = [self._buffer(matrix) for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - MOMENTUM)
        ahead = torch.stack(gradients).lerp_(torch.stack(buffers), MOMENTUM)
        steps = orthogonalised(ahead)
        scale = STEP_RMS * max(matrices[0].shape) ** 0.5
        torch._foreach_mul_(matrices, 1 - learning_rate * weight_decay)
        torch._foreach_add_(matrices, list(steps.unbind()), alpha=-learning_rate * scale)

    def _buffer(self, matrix: Tensor) -> Tensor:
        state: dict[str, Any] = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def muon_matrices(optimizer: torch.optim.Optimizer) -> set[int]:
    """Return the ids of the parameters that Muon takes; of another optimizer none."""
    if not isinstance(optimizer, Muon):
        return set()
    return {id(matrix) for matrix in optimizer.param_groups[0]["params"]}


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return the matrices with singular values near 1 (0.7 to 1.2) and the same singular vectors.

    matrices: (count, rows, columns), fp32. Newton and Schulz's iteration, which needs products
    alone; rounding to bf16 moves the values less than the iteration leaves them apart.
    """
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    has_bf16 = matrices.device.type != "cpu" or FEATURES.get("amx-bf16", False)
    flat = (matrices.mT if is_tall else matrices).contiguous()
    flat = flat / (torch.linalg.matrix_norm(flat, keepdim=True) + EPSILON)
    flat = flat.to(torch.bfloat16 if has_bf16 else torch.float32)
    linear, cubic, quintic = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = flat @ flat.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        flat = torch.baddbmm(flat, polynomial, flat, beta=linear)
    return (flat.mT if is_tall else flat).to(matrices.dtype)
