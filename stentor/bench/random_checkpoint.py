"""Model folders of the real shapes with random weights: the same work for any engine, no download.

The weights are drawn so that a sampler meets a distribution as wide as a language model's: a plain
initialisation gives nearly equal logits, and then top-p keeps tens of thousands of tokens.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from stentor.loading import LlamaShape, tensor_shapes_of
from stentor.model_folder import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE

EMBEDDING_STD = 0.02
# Logits of this standard deviation over 32,768 tokens have an entropy of 3.8 nats on average at
# temperature 1, measured: what small language models have on English text.
LOGIT_STD = 4.2
SEED = 20_240_917

# As on the two model cards.
SHAPES: dict[str, LlamaShape] = {
    name: LlamaShape(
        vocab_size=32_768,
        hidden_size=64 * num_heads,
        intermediate_size=256 * num_heads,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=64,
        context_length=512,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        is_tied=True,
    )
    for name, num_layers, num_heads in (("stentor-30m", 21, 4), ("stentor-big", 30, 8))
}


def write_random_checkpoint(folder: Path, shape: LlamaShape) -> None:
    """Write config, half-precision weights and a tokenizer; it names no end-of-text token."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_config(folder, shape)
    save_file(_draw_weights(shape), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _tokenizer(shape.vocab_size).save(str(folder / TOKENIZER_FILE))


def _write_config(folder: Path, shape: LlamaShape) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context_length,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.is_tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "dtype": "float16",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _draw_weights(shape: LlamaShape) -> dict[str, torch.Tensor]:
    """Draw matrices that keep the size of what passes through, and a final norm that widens.

    Layers that write far more than the embedding wrote hide the last token's own embedding, which
    the tied head would otherwise answer with again and again.
    """
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, size in tensor_shapes_of(shape).items():
        if len(size) == 1:
            weights[name] = torch.ones(size)
            continue
        is_embedding = size[0] == shape.vocab_size
        std = EMBEDDING_STD if is_embedding else 1.0 / math.sqrt(size[1])
        weights[name] = torch.empty(size).normal_(0.0, std, generator=generator)
    weights["model.norm.weight"] *= LOGIT_STD / (EMBEDDING_STD * math.sqrt(shape.hidden_size))
    return {name: tensor.to(torch.float16) for name, tensor in weights.items()}


def _tokenizer(vocab_size: int) -> Tokenizer:
    """Return a byte-level tokenizer that writes bytes, and can read as many words as asked."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())[:vocab_size]
    words += [f"Ġ{number}" for number in range(vocab_size - len(words))]
    model = models.BPE(vocab={word: place for place, word in enumerate(words)}, merges=[])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
