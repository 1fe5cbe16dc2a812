"""A checkpoint as one GGUF file for llama.cpp: the same weights under other names.

The bench hands over token ids and needs no vocabulary; a file for others has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from stentor.peers.protocol import Shape
from stentor.peers.stored_weights import Floats, read_tensors

# What llama.cpp calls the tensors of a layer.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OTHER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer as llama.cpp reads it; `splitting` is its name for a regex."""

    tokens: tuple[str, ...]
    is_special: tuple[bool, ...]
    merges: tuple[str, ...]
    splitting: str
    end_token: int


def write_gguf(
    path: Path,
    files: Sequence[str],
    shape: Shape,
    kind: str,
    *,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
) -> None:
    """Write the weights as `kind`: "Q8_0", "F16" or "F32"; vectors stay fp32."""
    writer = gguf.GGUFWriter(path, "llama")
    if name:
        writer.add_name(name)
    _write_shape(writer, shape)
    if vocabulary:
        _write_vocabulary(writer, vocabulary)
    else:
        writer.add_tokenizer_model("none")
    wanted = gguf.GGMLQuantizationType[kind]
    for name, tensor in read_tensors(files):
        own_name = _name(name)
        if own_name is None:
            continue
        tensor = _reordered(own_name, tensor, shape)
        stored = gguf.GGMLQuantizationType.F32 if tensor.ndim == 1 else wanted
        writer.add_tensor(
            f"{own_name}.weight", gguf.quants.quantize(tensor, stored), raw_dtype=stored
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_shape(writer: Any, shape: Shape) -> None:  # noqa: ANN401 - gguf has no types
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)


def _write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:  # noqa: ANN401
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(vocabulary.splitting)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(
        [kinds.CONTROL if special else kinds.NORMAL for special in vocabulary.is_special]
    )
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_eos_token_id(vocabulary.end_token)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)


def _name(name: str) -> str | None:
    """Return llama.cpp's name of a tensor; None for buffers that follow from the shape."""
    stem = name.removesuffix(".weight")
    if stem in OTHER_NAMES:
        return OTHER_NAMES[stem]
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[part]}" if part in LAYER_NAMES else None


def _reordered(name: str, tensor: Floats, shape: Shape) -> Floats:
    """Return queries and keys with the two halves of each head interleaved.

    llama.cpp rotates neighbours (2i, 2i + 1) where Hugging Face rotates (i, i + half).
    """
    kind = name.rpartition(".")[2]
    heads = {"attn_q": shape.num_heads, "attn_k": shape.num_key_value_heads}.get(kind)
    if heads is None:
        return tensor
    halves = tensor.reshape(heads, 2, shape.head_dim // 2, tensor.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
