"""From a folder to checked weights and a tokenizer. safetensors and JSON: nothing is executed.

The vocabulary is read from the weights, not believed from the config: 32,771 rows under a config
that says 32,768 load. Only plain Llama causal language models (RMSNorm, default RoPE, SwiGLU, no
biases) are accepted; everything else is refused with the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from stentor.errors import ModelError
from stentor.model_folder import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    StoredTensor,
    read_headers,
    read_json,
    read_revision,
    weight_files,
)

__all__ = [
    "Checkpoint",
    "LlamaShape",
    "count_parameters",
    "open_checkpoint_folder",
    "read_json",
    "read_weights",
    "tensor_shapes_of",
]

ARCHITECTURE = "LlamaForCausalLM"
FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
# Buffers that old checkpoints store and that follow from the config.
COMPUTED_SUFFIX = ".rotary_emb.inv_freq"
# Far above any Llama; a config beyond it would only fill memory with names.
MAX_LAYERS = 1000
MAX_SIZE = 1 << 31


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a Llama. `vocab_size` is the number of embedding rows in the file."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    is_tied: bool


@dataclass(frozen=True)
class Checkpoint:
    """A folder that has been checked and can be loaded."""

    folder: Path
    shape: LlamaShape
    tokenizer: Tokenizer
    end_tokens: frozenset[int]
    files: tuple[Path, ...]
    num_parameters: int
    revision: str


def open_checkpoint_folder(folder: Path) -> Checkpoint:
    """Check a Hugging Face folder without loading its weights.

    Raises:
        ModelError: names the file, what is wrong with it and the mend.
    """
    config = _read_config(folder)
    files = weight_files(folder)
    shape = _checked_shape(config, files, folder)
    return Checkpoint(
        folder=folder,
        shape=shape,
        tokenizer=_read_tokenizer(folder, shape.vocab_size),
        end_tokens=_end_tokens(folder, config),
        files=files,
        num_parameters=_num_parameters(shape),
        revision=read_revision(folder, files),
    )


def count_parameters(folder: Path) -> int:
    """Return the number of parameters of a model folder, from the headers alone.

    Raises:
        ModelError: as open_checkpoint_folder, less what concerns the tokenizer.
    """
    return _num_parameters(_checked_shape(_read_config(folder), weight_files(folder), folder))


def read_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return every tensor in fp32, by its Hugging Face name.

    Copies, because a tensor still mapped to its file changes, or ends the process, when the file is
    written over.

    Raises:
        ModelError: a file was changed or removed since it was checked.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in checkpoint.files:
        try:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - not a dictionary
                    weights[name] = stored.get_tensor(name).to(torch.float32, copy=True)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file} cannot be read any more ({error}). Load it again.") from error
    return weights


def tensor_shapes_of(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor that a Llama of this shape has."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    layer = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, hidden)}
    for index in range(shape.num_layers):
        shapes.update({f"model.layers.{index}.{name}": size for name, size in layer.items()})
    shapes["model.norm.weight"] = (hidden,)
    if not shape.is_tied:
        shapes["lm_head.weight"] = (shape.vocab_size, hidden)
    return shapes


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    config = read_json(path)
    received = config.get("model_type")
    if received != "llama":
        raise ModelError(
            f"{path} is of type {received!r}; the playground runs Llama-family causal language "
            "models (model_type 'llama')."
        )
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures and ARCHITECTURE not in architectures:
        raise ModelError(
            f"{path} is a {architectures}, not a {ARCHITECTURE}: it generates no text."
        )
    for name, accepted in (
        ("hidden_act", ("silu", "swish")),
        ("attention_bias", (False, None)),
        ("mlp_bias", (False, None)),
        ("quantization_config", (None,)),
    ):
        if config.get(name, accepted[0]) not in accepted:
            raise ModelError(f"{path}: {name}={config[name]!r} is not supported.")
    rope_type = _rope(config).get("rope_type", _rope(config).get("type", "default"))
    if rope_type != "default":
        raise ModelError(
            f"{path}: rotary embedding of type {rope_type!r} is not supported; only 'default' is."
        )
    return config


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the rotary settings: `rope_parameters`, or `rope_scaling` before transformers 5."""
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    return rope if isinstance(rope, dict) else {}


def _checked_shape(config: dict[str, Any], files: tuple[Path, ...], folder: Path) -> LlamaShape:
    """Return the shape that config and weights agree on."""
    tensors = read_headers(files)
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(
            f"{folder}: the weights lack model.embed_tokens.weight; not a causal Llama."
        )
    # Where config and weights disagree the weights count, as in transformers 5; but a head that the
    # config calls untied and that is missing is a missing file, not a tied one.
    is_tied = config.get("tie_word_embeddings") is not False and "lm_head.weight" not in tensors
    shape = _read_shape(config, embedding.shape, is_tied, folder)
    _check_tensors(shape, tensors, folder)
    return shape


def _read_shape(
    config: dict[str, Any], embedding: tuple[int, ...], is_tied: bool, folder: Path
) -> LlamaShape:
    path = folder / CONFIG_FILE
    theta = _rope(config).get("rope_theta", config.get("rope_theta", 10_000.0))
    try:
        num_heads = int(config["num_attention_heads"])
        shape = LlamaShape(
            vocab_size=embedding[0],
            hidden_size=embedding[1],
            intermediate_size=int(config["intermediate_size"]),
            num_layers=int(config["num_hidden_layers"]),
            num_heads=num_heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or num_heads),
            head_dim=int(config.get("head_dim") or embedding[1] // num_heads),
            context_length=int(config.get("max_position_embeddings", 512)),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(theta),
            is_tied=is_tied,
        )
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: a size is missing or wrong ({error!r}).") from error
    sizes = (shape.intermediate_size, shape.num_layers, num_heads, shape.num_key_value_heads)
    if not all(0 < size < MAX_SIZE for size in (*sizes, shape.head_dim, shape.context_length)):
        raise ModelError(f"{path}: a size is not positive, or beyond all reason.")
    if shape.num_layers > MAX_LAYERS or shape.head_dim % 2 or shape.context_length < 2:
        raise ModelError(
            f"{path}: {shape.num_layers:,} layers, heads of {shape.head_dim} and a context of "
            f"{shape.context_length} make no Llama."
        )
    if num_heads % shape.num_key_value_heads:
        raise ModelError(
            f"{path}: {num_heads} heads cannot share {shape.num_key_value_heads} key-value heads."
        )
    if not shape.rms_norm_eps >= 0.0 or not shape.rope_theta > 0.0:  # NaN is neither
        raise ModelError(f"{path}: rms_norm_eps or rope_theta is not a positive number.")
    return shape


def _check_tensors(shape: LlamaShape, tensors: dict[str, StoredTensor], folder: Path) -> None:
    expected = tensor_shapes_of(shape)
    for name, size in expected.items():
        received = tensors.get(name)
        if received is None:
            raise ModelError(f"{folder}: the weights lack {name}. Download the folder again.")
        if received.shape != size:
            raise ModelError(
                f"{folder}: {name} has shape {list(received.shape)}; the config means "
                f"{list(size)}. {CONFIG_FILE} and the weights belong to different models."
            )
        if received.dtype not in FLOAT_TYPES:
            raise ModelError(f"{folder}: {name} is stored as {received.dtype}, not as floats.")
    unknown = [name for name in tensors if name not in expected]
    unknown = [name for name in unknown if not name.endswith(COMPUTED_SUFFIX)]
    if unknown:
        raise ModelError(
            f"{folder}: a plain Llama of this config has no {unknown[0]}. {CONFIG_FILE} and the "
            "weights belong to different models, or it is no plain Llama."
        )


def _read_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    path = folder / TOKENIZER_FILE
    if not path.is_file():
        raise ModelError(f"{path} is missing. Copy the tokenizer.json of this model there.")
    try:
        tokenizer = Tokenizer.from_file(str(path))
        largest = max(tokenizer.get_vocab().values(), default=0)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{path} is not a tokenizer ({error}). Download it again.") from error
    if largest >= vocab_size:
        raise ModelError(
            f"{path} has token ids up to {largest:,}, the model {vocab_size:,} rows. "
            "Copy the tokenizer.json that belongs to this model there."
        )
    # Truncation or padding saved with a tokenizer would silently change a prompt.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _end_tokens(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    """Return the ids that end a text: generation_config.json first, then config.json."""
    generation_file = folder / "generation_config.json"
    generation = read_json(generation_file) if generation_file.is_file() else {}
    ids = generation.get("eos_token_id", config.get("eos_token_id"))
    listed = ids if isinstance(ids, list) else [ids]
    return frozenset(number for number in listed if isinstance(number, int))


def _num_parameters(shape: LlamaShape) -> int:
    return sum(torch.Size(size).numel() for size in tensor_shapes_of(shape).values())
