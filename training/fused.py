"""A Llama layer and its loss as single steps of autograd, on a CPU.

What a layer keeps for its backward pass is listed in `_Kept`; normalised inputs and the product of
gate and up are computed again, and with gradient checkpointing everything is. Products are
PyTorch's, the rest is training/kernels/. Knows no model: weights come in, gradients go out.
"""

import struct
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from training.kernels import rows as row_kernels
from training.kernels.attention import attention, attention_backward
from training.kernels.team import run
from training.scratch import Scratch

Gradients = tuple[Tensor | None, ...]
# Rows of logits at a time: 8 MB at 4,096 tokens, 64 MB at 32,768.
CHUNK_ROWS = 512


class LayerSizes(NamedTuple):
    """The sizes of a layer and of its input, (batch, length, hidden)."""

    batch: int
    length: int
    num_heads: int
    num_groups: int
    head_dim: int
    epsilon: float


class LayerWeights(NamedTuple):
    """The parameters of a layer; matrices are (outputs, inputs)."""

    attention_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class _Kept(NamedTuple):
    """What the backward pass of a layer reads. Rows are (batch * length) positions."""

    attention_rms: Tensor  # (rows)
    query: Tensor  # (rows, heads * dim), rotated
    key: Tensor  # (rows, groups * dim), rotated
    value: Tensor
    attended: Tensor  # (rows, heads * dim)
    logarithms: Tensor  # (batch, heads, length)
    middle: Tensor  # (rows, hidden), between attention and MLP
    mlp_rms: Tensor
    gate: Tensor  # (rows, intermediate)
    up: Tensor


def rms_norm(inputs: Tensor, gain: Tensor, epsilon: float, outputs: Tensor) -> Tensor:
    """Write the normalised rows and return 1 / RMS of each."""
    inverse_rms = torch.empty(len(inputs))
    bits = struct.unpack("q", struct.pack("d", epsilon))[0]
    run(row_kernels.rms_norm, inputs, gain, bits, *inputs.shape, outputs, inverse_rms)
    return inverse_rms


def rms_norm_backward(
    inputs: Tensor, gain: Tensor, inverse_rms: Tensor, above: Tensor, added: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the inputs plus `added`, and that of the gain."""
    num_rows, size = inputs.shape
    outputs = torch.empty_like(inputs)
    sums = torch.empty(-(-num_rows // row_kernels.PIECE_ROWS), size)
    run(
        row_kernels.rms_norm_backward,
        inputs, gain, inverse_rms, num_rows, size, above, added, outputs, sums,
    )  # fmt: skip
    return outputs, sums.sum(0)


class FusedLayer(torch.autograd.Function):
    """One layer: apply(inputs, angles, sizes, scratch, is_checkpointed, *LayerWeights).

    inputs: (batch * length, hidden); angles: cosines and sines, (length, dim / 2).
    """

    @staticmethod
    def forward(  # autograd hands on whatever apply is given
        ctx: Any,  # noqa: ANN401
        inputs: Tensor,
        angles: tuple[Tensor, Tensor],
        sizes: LayerSizes,
        scratch: Scratch,
        is_checkpointed: bool,
        *weights: Tensor,
    ) -> Tensor:
        """Return the layer's outputs, (batch * length, hidden)."""
        named = LayerWeights(*weights)
        ctx.save_for_backward(inputs, *weights)
        ctx.given = angles, sizes, scratch
        with scratch.products():
            kept = _forward(inputs, named, angles, sizes, scratch)
            product = scratch.take("product", *kept.gate.shape)
            run(row_kernels.swiglu, kept.gate, kept.up, product.numel(), product)
            outputs = torch.addmm(kept.middle, product, named.down.t())
        ctx.kept = None if is_checkpointed else kept
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Gradients:  # noqa: ANN401
        """Return the gradients of the inputs and of the weights."""
        inputs, *weights = ctx.saved_tensors
        angles, sizes, scratch = ctx.given
        named = LayerWeights(*weights)
        above = above.contiguous()
        with scratch.products():
            kept = ctx.kept or _forward(inputs, named, angles, sizes, scratch)
            ctx.kept = None  # free before the layers below need memory; asked again: compute again
            middle, of_mlp = _backward_mlp(above, named, kept, sizes, scratch)
            outputs, of_attention = _backward_attention(
                inputs, middle, named, kept, angles, sizes, scratch
            )
        return (outputs, None, None, None, None, *of_attention, *of_mlp)


def _forward(
    inputs: Tensor,
    weights: LayerWeights,
    angles: tuple[Tensor, Tensor],
    sizes: LayerSizes,
    scratch: Scratch,
) -> _Kept:
    normed = scratch.take("normed", *inputs.shape)
    attention_rms = rms_norm(inputs, weights.attention_norm, sizes.epsilon, normed)
    query, key, value = (
        torch.mm(normed, matrix.t()) for matrix in (weights.query, weights.key, weights.value)
    )
    attended = torch.empty_like(query)
    logarithms = torch.empty(sizes.batch, sizes.num_heads, sizes.length)
    run(attention, query, key, value, *angles, *sizes[:5], attended, logarithms)
    middle = torch.addmm(inputs, attended, weights.output.t())
    mlp_rms = rms_norm(middle, weights.mlp_norm, sizes.epsilon, normed)
    gate, up = torch.mm(normed, weights.gate.t()), torch.mm(normed, weights.up.t())
    return _Kept(attention_rms, query, key, value, attended, logarithms, middle, mlp_rms, gate, up)


def _backward_mlp(
    above: Tensor, weights: LayerWeights, kept: _Kept, sizes: LayerSizes, scratch: Scratch
) -> tuple[Tensor, Gradients]:
    """Return the gradient of the middle of the layer, and of the MLP's weights."""
    normed = scratch.take("normed", *kept.middle.shape)
    rms_norm(kept.middle, weights.mlp_norm, sizes.epsilon, normed)
    of_gate = torch.mm(above, weights.down, out=scratch.take("of_gate", *kept.gate.shape))
    product = scratch.take("product", *kept.gate.shape)
    of_up = scratch.take("of_up", *kept.gate.shape)
    run(row_kernels.swiglu_backward, kept.gate, kept.up, product.numel(), of_gate, of_up, product)
    of_weights = (of_gate.t() @ normed, of_up.t() @ normed, above.t() @ product)
    of_normed = torch.mm(of_gate, weights.gate, out=scratch.take("of_normed", *above.shape))
    of_normed.addmm_(of_up, weights.up)
    middle, of_gain = rms_norm_backward(
        kept.middle, weights.mlp_norm, kept.mlp_rms, of_normed, above
    )
    return middle, (of_gain, *of_weights)


def _backward_attention(
    inputs: Tensor,
    above: Tensor,
    weights: LayerWeights,
    kept: _Kept,
    angles: tuple[Tensor, Tensor],
    sizes: LayerSizes,
    scratch: Scratch,
) -> tuple[Tensor, Gradients]:
    """Return the gradient of the layer's inputs, and of the attention's weights."""
    attended = (kept.query, kept.key, kept.value)
    of_attended = torch.mm(
        above, weights.output, out=scratch.take("of_attended", *kept.attended.shape)
    )
    parts = [
        scratch.take(name, *tensor.shape)
        for name, tensor in zip(("of_query", "of_key", "of_value"), attended, strict=True)
    ]
    run(
        attention_backward,
        *attended, *angles, *sizes[:5], kept.attended, kept.logarithms, of_attended, *parts,
    )  # fmt: skip
    normed = scratch.take("normed", *inputs.shape)
    rms_norm(inputs, weights.attention_norm, sizes.epsilon, normed)
    of_weights = [part.t() @ normed for part in parts]
    of_normed = torch.mm(parts[0], weights.query, out=scratch.take("of_normed", *inputs.shape))
    of_normed.addmm_(parts[1], weights.key).addmm_(parts[2], weights.value)
    outputs, of_gain = rms_norm_backward(
        inputs, weights.attention_norm, kept.attention_rms, of_normed, above
    )
    return outputs, (of_gain, *of_weights, above.t() @ kept.attended)


class FusedNorm(torch.autograd.Function):
    """The last normalisation: apply(inputs, gain, epsilon)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, gain: Tensor, epsilon: float) -> Tensor:  # noqa: ANN401
        """Return the normalised rows."""
        outputs = torch.empty_like(inputs)
        ctx.save_for_backward(inputs, gain, rms_norm(inputs, gain, epsilon, outputs))
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Gradients:  # noqa: ANN401
        """Return the gradients of the inputs and of the gain."""
        inputs, gain, inverse_rms = ctx.saved_tensors
        nothing = torch.zeros_like(inputs)
        return *rms_norm_backward(inputs, gain, inverse_rms, above.contiguous(), nothing), None


class FusedLoss(torch.autograd.Function):
    """Cross-entropy of the output matrix.

    apply(hidden, matrix, targets, num_targets, scratch, is_training)

    hidden: (rows, hidden); matrix: (vocabulary, hidden); targets: (rows) int64, negative where a
    row predicts nothing. Gradients are computed with the loss, a chunk of rows at a time, so that
    the logits of all rows never exist at once.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        matrix: Tensor,
        targets: Tensor,
        num_targets: int,
        scratch: Scratch,
        is_training: bool,
    ) -> Tensor:
        """Return the mean over the rows that predict, in nats."""
        num_rows = len(hidden)
        losses = torch.empty(num_rows)
        of_hidden = torch.empty_like(hidden) if is_training else None
        of_matrix = torch.empty_like(matrix) if is_training else None
        for start in range(0, num_rows, CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, num_rows)
            rows = hidden[start:end]
            logits = scratch.take("logits", end - start, len(matrix))
            with scratch.products():
                torch.mm(rows, matrix.t(), out=logits)
            run(
                row_kernels.cross_entropy,
                logits, targets[start:end], end - start, len(matrix), num_targets,
                losses[start:end],
            )  # fmt: skip
            if of_hidden is not None and of_matrix is not None:
                with scratch.products():
                    torch.mm(logits, matrix, out=of_hidden[start:end])
                    of_matrix.addmm_(logits.t(), rows, beta=0 if start == 0 else 1)
        ctx.gradients = of_hidden, of_matrix
        return (losses.double().sum() / num_targets).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Gradients:  # noqa: ANN401
        """Return the gradients of hidden and matrix."""
        return *scaled_once(ctx, above), None, None, None, None


def scaled_once(ctx: Any, above: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return the gradients that a loss computed in its forward pass, times that of the loss.

    Raises:
        RuntimeError: they were taken before; they are scaled in place, being as large as weights.
    """
    gradients, ctx.gradients = ctx.gradients, None
    if gradients is None:
        raise RuntimeError("The gradients of this loss were taken already: compute it again.")
    of_hidden, of_matrix = gradients
    return of_hidden.mul_(above), of_matrix.mul_(above)
