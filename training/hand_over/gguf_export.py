"""A model folder as one GGUF file that llama.cpp loads, tokenizer included.

llama.cpp knows tokenizers by name only: one that it does not split text as is refused, because it
would read the same prompt as other tokens.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from stentor.errors import ModelError, OptionError
from stentor.knobs import from_json, knobs, to_json
from stentor.loading import Checkpoint
from stentor.model_folder import TOKENIZER_FILE, read_json
from stentor.peers.protocol import Shape
from training.checkpoint import end_token_of
from training.hand_over.settings import NO_GGUF, HandOverSettings

# What splits text before BPE -> llama.cpp's name of it. The regex of ByteLevel is GPT-2's; with
# every digit apart it is SmolLM's (llama.cpp, src/llama-vocab.cpp).
SPLITTINGS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}


def check_can_write(checkpoint: Checkpoint, kind: str) -> None:
    """Refuse what cannot become a GGUF file, before anything is written.

    Raises:
        OptionError: an unknown kind, or the package `gguf` is not installed.
        ModelError: llama.cpp would not read the tokenizer, or the model, as we do.
    """
    kinds = [name for name in knobs(HandOverSettings)["gguf"].choices if name != NO_GGUF]
    if kind not in kinds:
        raise OptionError(f"A GGUF file is one of {', '.join(kinds)}; got {kind!r:.40}.")
    if importlib.util.find_spec("gguf") is None:
        raise OptionError("Writing GGUF needs the package gguf: pip install gguf")
    _read_vocabulary(checkpoint)
    width = checkpoint.shape.hidden_size
    if kind == "Q8_0" and (width % 32 or checkpoint.shape.intermediate_size % 32):
        raise ModelError(
            f"Q8_0 needs widths that are multiples of 32; this model is {width} wide, its SwiGLU "
            f"{checkpoint.shape.intermediate_size}. Use F16."
        )


def write(checkpoint: Checkpoint, path: Path, kind: str, name: str) -> None:
    """Write `checkpoint` to `path` with its tokenizer.

    Raises:
        OptionError, ModelError: as check_can_write.
    """
    check_can_write(checkpoint, kind)
    gguf_file = importlib.import_module("stentor.peers.gguf_file")  # imports gguf, which may lack
    vocabulary = gguf_file.Vocabulary(**_read_vocabulary(checkpoint))
    shape = from_json(Shape, to_json(checkpoint.shape))
    files = [str(file) for file in checkpoint.files]
    gguf_file.write_gguf(path, files, shape, kind, name=name, vocabulary=vocabulary)


def _read_vocabulary(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tokenizer's tokens, merges and way of splitting.

    Raises:
        ModelError: it is no byte-level BPE that llama.cpp knows, or the model has other rows.
    """
    values = read_json(checkpoint.folder / TOKENIZER_FILE)
    model = values.get("model") or {}
    splitting = SPLITTINGS.get(_splitters(values.get("pre_tokenizer") or {}))
    if model.get("type") != "BPE" or splitting is None or values.get("normalizer"):
        found = json.dumps(values.get("pre_tokenizer"))
        raise ModelError(
            "llama.cpp has no name for this tokenizer, so a GGUF file would read prompts as other "
            f"tokens. Known: byte-level BPE, digits apart or not; got {model.get('type')} with "
            f"{found:.200}."
        )
    rows = checkpoint.shape.vocab_size
    tokens = [f"[unused {number}]" for number in range(rows)]
    special = [True] * rows
    for token, number in model["vocab"].items():
        tokens[number], special[number] = token, False
    for added in values.get("added_tokens") or ():
        tokens[added["id"]], special[added["id"]] = added["content"], bool(added["special"])
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return {
        "tokens": tuple(tokens),
        "is_special": tuple(special),
        "merges": tuple(merges),
        "splitting": splitting,
        "end_token": end_token_of(checkpoint),
    }


def _splitters(pre_tokenizer: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of what splits text; one with an option llama.cpp lacks has another name."""
    if pre_tokenizer.get("type") == "Sequence":
        return tuple(name for part in pre_tokenizer["pretokenizers"] for name in _splitters(part))
    kind = str(pre_tokenizer.get("type"))
    is_plain = {
        "ByteLevel": not pre_tokenizer.get("add_prefix_space")
        and pre_tokenizer.get("use_regex", True),
        "Digits": bool(pre_tokenizer.get("individual_digits")),
    }.get(kind, False)
    return (kind if is_plain else f"{kind} with other options",)
