"""A Llama layer and its loss in PyTorch's own operators: any device, any precision.

`torch.compile` can fuse them; attention is PyTorch's fused one. Knows no kernels.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from training.fused import scaled_once

# logits, targets, number of targets -> sum of the losses / targets, gradient of the logits.
ChunkLoss = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def plain_norm(hidden: Tensor, norm: nn.Module) -> Tensor:
    """Return the hidden states normalised by a LlamaRMSNorm."""
    gain, epsilon = norm.weight, norm.variance_epsilon
    assert isinstance(gain, Tensor) and isinstance(epsilon, float)
    return functional.rms_norm(hidden, gain.shape, gain, epsilon)


def _normed(hidden: Tensor, norm: nn.Module) -> Tensor:
    """Return plain_norm in the precision of the products: one copy for all that read it."""
    normed, kind = plain_norm(hidden, norm), hidden.device.type
    return normed.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else normed


def plain_layer(layer: LlamaDecoderLayer, hidden: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Return a layer's outputs; hidden: (batch, length, hidden), angles: (1, length, dim)."""
    attention, mlp = layer.self_attn, layer.mlp
    normed = _normed(hidden, layer.input_layernorm)
    by_head = (*hidden.shape[:2], -1, attention.head_dim)
    query, key, value = (
        project(normed).view(by_head).transpose(1, 2)  # (batch, heads, length, dim)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    attended = functional.scaled_dot_product_attention(
        _rotated(query, cosines, sines),
        _rotated(key, cosines, sines),
        value,
        is_causal=True,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    attended = attended.transpose(1, 2).flatten(2)
    hidden = hidden + attention.o_proj(attended)
    normed = _normed(hidden, layer.post_attention_layernorm)
    product = mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)
    outputs: Tensor = hidden + mlp.down_proj(product)
    return outputs


def _rotated(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the pairs (i, i + half) of each head by its position (arXiv 2104.09864)."""
    first, second = vectors.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (vectors * cosines + turned * sines).to(vectors.dtype)


def chunk_loss(logits: Tensor, targets: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
    """Return a chunk's part of the mean loss, and the gradient of that over the logits.

    logits: (rows, vocabulary); targets: (rows), negative where a row predicts nothing.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    is_target = targets >= 0
    logarithms = torch.logsumexp(wide, dim=-1, keepdim=True)
    places = targets.clamp(min=0).unsqueeze(1)
    losses = (logarithms - wide.gather(1, places)).squeeze(1)
    gradient = torch.exp(wide - logarithms)
    gradient = gradient.scatter_add(1, places, torch.full_like(logarithms, -1.0))
    weights = is_target.to(wide.dtype) / num_targets
    loss = torch.where(is_target, losses, 0.0).sum() / num_targets
    return loss, (gradient * weights.unsqueeze(1)).to(logits.dtype)


class PlainLoss(torch.autograd.Function):
    """Cross-entropy of the output matrix, a chunk of rows at a time; see FusedLoss.

    apply(hidden, matrix, targets, num_targets, dtype of the products, rows of a chunk, chunk_loss,
    is_training)
    """

    @staticmethod
    def forward(  # autograd hands on whatever apply is given
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        matrix: Tensor,
        targets: Tensor,
        num_targets: int,
        dtype: torch.dtype,
        chunk_rows: int,
        chunk_loss_of: ChunkLoss,
        is_training: bool,
    ) -> Tensor:
        """Return the mean over the rows that predict, in nats."""
        narrow = matrix.to(dtype)
        of_hidden = torch.empty_like(hidden) if is_training else None
        of_matrix = torch.zeros_like(matrix) if is_training else None
        parts = []
        for start in range(0, len(hidden), chunk_rows):
            rows = hidden[start : start + chunk_rows].to(dtype)
            logits = rows @ narrow.t()
            part, gradient = chunk_loss_of(logits, targets[start : start + chunk_rows], num_targets)
            parts.append(part)
            if of_hidden is not None and of_matrix is not None:
                of_hidden[start : start + chunk_rows] = gradient @ narrow
                of_matrix += gradient.t() @ rows
        ctx.gradients = of_hidden, of_matrix
        return torch.stack(parts).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Return the gradients of hidden and matrix."""
        return *scaled_once(ctx, above), None, None, None, None, None, None
