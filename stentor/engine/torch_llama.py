"""A Llama in torch that reads rows of tokens, always as many at once, into slots.

A row is one token of any request at any position; prompts and new tokens are read alike. A pass
reads PASS_ROWS rows, padded if need be, and attends over a span of positions that each row's own
position decides. So every kernel sees the same shapes whoever else is in the room: which kernel a
library picks, and in which order it sums, never depends on the other rows.

Nothing here copies from the host or waits for the device, so that a pass can be captured as a CUDA
graph. It knows no requests and no sampling. Agrees with transformers to 1e-4 in fp32 (tests).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stentor.loading import LlamaShape

# Each weight that is read is multiplied 64 times; a GPU has time for some 150 to 300 meanwhile
# (bf16, by the data sheets), so a lone row costs about what 64 do.
PASS_ROWS = 64
# The shortest span of positions; the next ones double, the last one is the capacity of a slot.
FIRST_SPAN = 128
# The attention kernels want the length of a mask to be a multiple of this.
ALIGNMENT = 16

# Which attention kernels are allowed is a setting of the whole process.
_attention_setting = Lock()


@contextmanager
def _masked_attention() -> Iterator[None]:
    """Allow the kernels that take a mask and pick alike on every GPU: not cuDNN's."""
    with _attention_setting, sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield


class SlotCache:
    """Keys, values and tokens of all slots, and of a spare slot into which padding is read.

    keys, values: [layers, slots + 1, capacity, kv_heads, head_dim]
    token_ids: [slots + 1, capacity]
    """

    def __init__(
        self,
        shape: LlamaShape,
        num_slots: int,
        context_length: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spare_slot = num_slots
        self.capacity = -(-context_length // ALIGNMENT) * ALIGNMENT
        heads = (shape.num_key_value_heads, shape.head_dim)
        size = (shape.num_layers, num_slots + 1, self.capacity, *heads)
        # Zeros: see clear().
        self.keys = torch.zeros(size, dtype=dtype, device=device)
        self.values = torch.zeros(size, dtype=dtype, device=device)
        self.token_ids = torch.zeros(
            (num_slots + 1, self.capacity), dtype=torch.int64, device=device
        )

    @property
    def num_bytes(self) -> int:
        """Return the size of the keys and values."""
        return self.keys.nbytes + self.values.nbytes

    @property
    def spans(self) -> list[int]:
        """Return the spans of positions that a pass may attend over, rising."""
        spans = []
        span = FIRST_SPAN
        while span < self.capacity:
            spans.append(span)
            span *= 2
        return [*spans, self.capacity]

    def clear(self, slots: list[int]) -> None:
        """Forget what earlier requests left in these slots.

        Attention gives positions beyond a row's own a weight of 0, but 0 times the NaN of a broken
        request is NaN (pytorch issue 101967).
        """
        if not slots:
            return
        places = torch.tensor(slots, device=self.keys.device)
        self.keys.index_fill_(1, places, 0.0)
        self.values.index_fill_(1, places, 0.0)


@dataclass(frozen=True)
class _Layer:
    """The weights of one block; matrices are [out, in], gains [hidden]."""

    input_gain: Tensor
    query_key_value: Tensor
    output: Tensor
    attention_gain: Tensor
    gate_up: Tensor
    down: Tensor


class TorchLlama:
    """The weights of a model on one device in one type."""

    def __init__(
        self,
        shape: LlamaShape,
        weights: dict[str, Tensor],
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.shape = shape

        def place(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype).contiguous()

        self._embedding = place(weights["model.embed_tokens.weight"])
        self._head = self._embedding if shape.is_tied else place(weights["lm_head.weight"])
        self._final_gain = place(weights["model.norm.weight"])
        self._layers = []
        for index in range(shape.num_layers):
            parts = _read_layer(weights, index)
            self._layers.append(_Layer(*(place(part) for part in parts)))
        cosines, sines = _rotary_tables(shape, capacity)
        self._cosines, self._sines = cosines.to(device), sines.to(device)  # fp32 in every precision
        self._columns = torch.arange(capacity, device=device)

    def read(self, cache: SlotCache, rows: Tensor, span: int) -> Tensor:
        """Read tokens into their slots; return the final hidden states [PASS_ROWS, hidden].

        `rows` [3, PASS_ROWS] holds token ids, slots and positions; every position is below `span`.
        Rows of one slot may follow each other: all keys are written before anyone attends.
        """
        token_ids, slots, positions = rows.unbind(0)
        cache.token_ids[slots, positions] = token_ids
        # [rows, 1, head_dim], the same for all heads
        rotation = self._cosines[positions].unsqueeze(1), self._sines[positions].unsqueeze(1)
        hidden = F.embedding(token_ids, self._embedding)
        mask = self._mask(positions, span, hidden.dtype)
        with _masked_attention():
            for index, layer in enumerate(self._layers):
                projected = F.linear(self._norm(hidden, layer.input_gain), layer.query_key_value)
                attended = self._attend(projected, cache, index, slots, positions, rotation, mask)
                hidden.addmm_(attended, layer.output.t())
                gate_up = F.linear(self._norm(hidden, layer.attention_gain), layer.gate_up)
                gate, up = gate_up.chunk(2, dim=-1)
                hidden.addmm_(F.silu(gate) * up, layer.down.t())
        return self._norm(hidden, self._final_gain)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [rows, vocabulary] of at most PASS_ROWS final states, in fp32."""
        num_rows = hidden.shape[0]
        padded = F.pad(hidden, (0, 0, 0, PASS_ROWS - num_rows))
        if padded.is_cuda and padded.dtype != torch.float32:
            # Rounding logits to bf16 would leave 3 digits and tie many of them.
            logits = torch.mm(padded, self._head.t(), out_dtype=torch.float32)
        else:
            logits = torch.mm(padded, self._head.t()).float()
        return logits[:num_rows]

    def _norm(self, hidden: Tensor, gain: Tensor) -> Tensor:
        return F.rms_norm(hidden, (self.shape.hidden_size,), gain, self.shape.rms_norm_eps)

    def _mask(self, positions: Tensor, span: int, dtype: torch.dtype) -> Tensor:
        """Return what is added to scores [rows, 1, 1, span]: -inf beyond a row's own position."""
        is_beyond = self._columns[:span] > positions.unsqueeze(1)
        mask = torch.zeros(is_beyond.shape, dtype=dtype, device=positions.device)
        return mask.masked_fill_(is_beyond, -torch.inf)[:, None, None, :]

    def _attend(
        self,
        projected: Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim]
        cache: SlotCache,
        index: int,
        slots: Tensor,
        positions: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> Tensor:
        """Keep the rows' keys and values in one layer; return their attention before the output."""
        num_rows, num_kv_heads = len(projected), self.shape.num_key_value_heads
        heads = projected.view(num_rows, -1, self.shape.head_dim)
        rotated = _rotate(heads[:, :-num_kv_heads], rotation)
        queries, new_keys = rotated[:, :-num_kv_heads], rotated[:, -num_kv_heads:]
        keys, values = cache.keys[index], cache.values[index]
        keys[slots, positions] = new_keys
        values[slots, positions] = heads[:, -num_kv_heads:]
        span = mask.shape[-1]
        # Query heads that share a key-value head are as many queries of that head.
        mixed = F.scaled_dot_product_attention(
            queries.reshape(num_rows, num_kv_heads, -1, self.shape.head_dim),
            keys[:, :span].index_select(0, slots).transpose(1, 2),
            values[:, :span].index_select(0, slots).transpose(1, 2),
            attn_mask=mask,
        )
        return mixed.reshape(num_rows, -1)


def _read_layer(weights: dict[str, Tensor], index: int) -> tuple[Tensor, ...]:
    """Return the tensors of one block in the order of _Layer."""
    prefix = f"model.layers.{index}"

    def joined(*names: str) -> Tensor:
        return torch.cat([weights[f"{prefix}.{name}_proj.weight"] for name in names])

    return (
        weights[f"{prefix}.input_layernorm.weight"],
        joined("self_attn.q", "self_attn.k", "self_attn.v"),
        joined("self_attn.o"),
        weights[f"{prefix}.post_attention_layernorm.weight"],
        joined("mlp.gate", "mlp.up"),
        joined("mlp.down"),
    )


def _rotary_tables(shape: LlamaShape, capacity: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [capacity, head_dim] in Hugging Face's layout.

    The first half of the sines is negative, so that a rotation needs no negated copy.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    frequencies = 1.0 / shape.rope_theta**exponents
    angles = torch.outer(torch.arange(capacity, dtype=torch.float32), frequencies)
    cosines, sines = angles.cos(), angles.sin()
    return torch.cat((cosines, cosines), dim=-1), torch.cat((-sines, sines), dim=-1)


def _rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) of [rows, heads, head_dim] by their positions, in fp32."""
    cosines, sines = rotation
    first, second = heads.chunk(2, dim=-1)
    swapped = torch.cat((second, first), dim=-1)
    return torch.addcmul(heads * cosines, swapped, sines).to(heads.dtype)
