"""Variants of the tiny model that tests need (endless, slow, poisoned), and asking an engine."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, Stream
from stentor.loading import Checkpoint

SECONDS = 60.0  # far more than any text of these models needs


def write_endless(source: Path, target: Path) -> Path:
    """Copy a model without its end-of-text token, so that only limits end a text."""
    shutil.copytree(source, target)
    (target / "generation_config.json").write_text('{"eos_token_id": null}')
    return target


def deepen(folder: Path, num_layers: int) -> None:
    """Repeat the first layer of a two-layer model: long texts last for seconds, tests interfere."""
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text()) | {"num_hidden_layers": num_layers}
    config_file.write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.startswith("model.layers.0.")]:
        for layer in range(2, num_layers):
            weights[name.replace(".0.", f".{layer}.")] = weights[name].clone()
    save_file(weights, folder / "model.safetensors")


def poison(folder: Path, token_id: int) -> None:
    """Untie the head and put NaN into one input embedding: only prompts with that token fail."""
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone()
    embedding[token_id] = torch.nan
    save_file(weights, folder / "model.safetensors")
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text()) | {"tie_word_embeddings": False}
    config_file.write_text(json.dumps(config))


def request(
    checkpoint: Checkpoint, text: str, settings: SamplingSettings, session: str = "a"
) -> GenerationRequest:
    """Return a request for a text, as a front end would submit it."""
    return GenerationRequest(tuple(checkpoint.tokenizer.encode(text).ids), settings, session)


def finished(stream: Stream) -> Snapshot:
    """Return the last snapshot of a stream."""
    assert stream.wait(SECONDS), "the stream did not end"
    return stream.snapshot()
