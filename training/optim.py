"""AdamW (arXiv:1711.05101) and its parameter groups. Knows no schedule and no files."""

import torch
from torch import nn

# The usual choice for language models (GPT-3, arXiv:2005.14165, appendix B), as is
# PyTorch's own epsilon of 1e-8.
BETAS = (0.9, 0.95)


def make_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """Return AdamW over what `model` trains; a tied head is there once, as the embedding.

    Norm gains (vectors) are not decayed, since a gain is a scale, not a weight. Fused: one pass
    over weights, gradients and moments, on a CPU and on a GPU.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=BETAS, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
