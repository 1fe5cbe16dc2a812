"""The optimizers of training and their parameter groups. Knows no schedule and no files."""

import torch
from torch import nn

from training.muon import Muon
from training.settings import PretrainSettings

# The usual choice for language models (GPT-3, arXiv:2005.14165, appendix B), as is
# PyTorch's own epsilon of 1e-8.
BETAS = (0.9, 0.95)
# In the name of every parameter of a layer, whatever the model is wrapped in.
LAYERS = "layers."


def make_optimizer(model: nn.Module, settings: PretrainSettings) -> torch.optim.Optimizer:
    """Return the optimizer over what `model` trains; a tied head is there once, as the embedding.

    AdamW (arXiv:1711.05101), fused: one pass over weights, gradients and moments, on a CPU and on
    a GPU. Norm gains (vectors) are not decayed, since a gain is a scale, not a weight. With
    `muon`, the matrices of the layers go to Muon, and AdamW keeps embeddings and gains.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    matrices = [p for name, p in named.items() if LAYERS in name and p.dim() == 2]
    of_muon = matrices if settings.optimizer == "muon" else []
    taken = {id(parameter) for parameter in of_muon}
    others = [parameter for parameter in named.values() if id(parameter) not in taken]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=BETAS, fused=True)
    if not of_muon:
        return adamw
    return Muon(of_muon, adamw, settings.learning_rate, settings.weight_decay)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
