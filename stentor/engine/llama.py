"""A Llama in fp32: token ids and a cache row in, hidden states and logits out.

Each call works on one request alone, so that requests cannot influence each other. It knows no
text, no sampling and no threads. Agrees with `transformers.LlamaForCausalLM` to 1e-4 (tests).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stentor.engine.cache import CacheRow
from stentor.loading import LlamaShape


@dataclass(frozen=True)
class _Layer:
    """The weights of one block, [out, in]; norms are [hidden]."""

    input_norm: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    post_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class LlamaDecoder:
    """The weights of a model, ready to decode up to `capacity` positions per request."""

    def __init__(self, shape: LlamaShape, weights: dict[str, Tensor], capacity: int) -> None:
        self.shape = shape
        self._embedding = weights["model.embed_tokens.weight"]
        self._layers = [_read_layer(weights, index) for index in range(shape.num_layers)]
        self._final_norm = weights["model.norm.weight"]
        self._head = self._embedding if shape.is_tied else weights["lm_head.weight"]
        self._cosine, self._sine = _rotary_tables(shape, capacity)

    @torch.inference_mode()
    def hidden_states(self, token_ids: list[int], row: CacheRow) -> Tensor:
        """Append `token_ids` to `row` and return their final hidden states [tokens, hidden]."""
        start, end = row.length, row.length + len(token_ids)
        rotation = self._cosine[start:end], self._sine[start:end]
        # A lone new token sees everything before it; several must not see each other's future.
        mask = None
        if len(token_ids) > 1:
            mask = torch.ones(len(token_ids), end, dtype=torch.bool).tril(diagonal=start)
        hidden = self._embedding[torch.tensor(token_ids)]
        for index, layer in enumerate(self._layers):
            normed = self._norm(hidden, layer.input_norm)
            hidden = hidden + self._attend(normed, layer, row, index, rotation, mask)
            normed = self._norm(hidden, layer.post_norm)
            gated = F.silu(F.linear(normed, layer.gate)) * F.linear(normed, layer.up)
            hidden = hidden + F.linear(gated, layer.down)
        row.length = end
        return self._norm(hidden, self._final_norm)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., vocabulary] of final hidden states [..., hidden]."""
        return F.linear(hidden, self._head)

    def _norm(self, hidden: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(hidden, (self.shape.hidden_size,), gain, self.shape.rms_norm_eps)

    def _attend(
        self,
        hidden: Tensor,  # [tokens, hidden]
        layer: _Layer,
        row: CacheRow,
        index: int,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,  # [tokens, positions]
    ) -> Tensor:
        num_tokens, start = hidden.shape[0], row.length
        end = start + num_tokens
        queries = _rotate(self._split(F.linear(hidden, layer.query)), rotation)
        keys, values = row.keys[index], row.values[index]  # [key_value_heads, capacity, head_dim]
        keys[:, start:end] = _rotate(self._split(F.linear(hidden, layer.key)), rotation)
        values[:, start:end] = self._split(F.linear(hidden, layer.value))
        mixed = F.scaled_dot_product_attention(
            queries.unsqueeze(0),
            keys[:, :end].unsqueeze(0),
            values[:, :end].unsqueeze(0),
            attn_mask=mask,
            enable_gqa=self.shape.num_heads != self.shape.num_key_value_heads,
        )
        return F.linear(mixed[0].transpose(0, 1).reshape(num_tokens, -1), layer.output)

    def _split(self, projected: Tensor) -> Tensor:
        """Return [heads, tokens, head_dim] of a projection [tokens, heads * head_dim]."""
        return projected.view(projected.shape[0], -1, self.shape.head_dim).transpose(0, 1)


def _read_layer(weights: dict[str, Tensor], index: int) -> _Layer:
    prefix = f"model.layers.{index}"
    return _Layer(
        input_norm=weights[f"{prefix}.input_layernorm.weight"],
        query=weights[f"{prefix}.self_attn.q_proj.weight"],
        key=weights[f"{prefix}.self_attn.k_proj.weight"],
        value=weights[f"{prefix}.self_attn.v_proj.weight"],
        output=weights[f"{prefix}.self_attn.o_proj.weight"],
        post_norm=weights[f"{prefix}.post_attention_layernorm.weight"],
        gate=weights[f"{prefix}.mlp.gate_proj.weight"],
        up=weights[f"{prefix}.mlp.up_proj.weight"],
        down=weights[f"{prefix}.mlp.down_proj.weight"],
    )


def _rotary_tables(shape: LlamaShape, capacity: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [capacity, head_dim], both halves alike (Hugging Face layout)."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / shape.rope_theta**exponents
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) of [heads, tokens, head_dim] by their positions."""
    cosine, sine = rotation
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine
