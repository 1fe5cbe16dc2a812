"""Verbs on one checkpoint, outside a run: expand, export and validate."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from stentor.errors import DataError, ModelError, OptionError
from stentor.hub import folder_of
from stentor.knobs import from_arguments
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from stentor.models import find_model
from training.checkpoint import end_token_of, load_model, save_checkpoint
from training.growth_report import describe, report_to_json, warnings_of
from training.hardware import describe_machine
from training.integrity import TRAINER_FILE
from training.loop import validation_loss
from training.network import TrainingNetwork
from training.settings import WINDOW_TOKENS, ExpandSettings, Source
from training.sources import read_documents
from training.stages.expand import grow

# As many windows as a small batch of training holds; a larger one is not faster on a CPU.
VALIDATION_BATCH = 8


@dataclass(frozen=True)
class Validation:
    """How well a model predicts a text.

    `loss` is the mean over all predictions, in nats per token, as in training: of each window the
    510 tokens after the first, and the end. `bits_per_byte` is the same sum in bits, shared out
    over the UTF-8 bytes of those tokens; it compares models of different tokenizers.
    """

    model: str
    revision: str
    loss: float
    bits_per_byte: float
    num_windows: int
    num_tokens: int  # predicted
    num_bytes: int


def expand_model(parsed: argparse.Namespace) -> int:
    """Grow one checkpoint into a new folder and print what that did to its function."""
    settings = from_arguments(ExpandSettings, parsed)
    parent = open_reference(parsed.model)
    refuse_existing(parsed.output)
    model, report = grow(parent, settings, parsed.seed)
    values = report_to_json(report)
    save_checkpoint(parsed.output, model, parent.folder, {"growth": values})
    for warning in warnings_of(report):
        print(f"warning: {warning}", file=sys.stderr)
    print(json.dumps(values, indent=2) if parsed.json else describe(report))
    return 0


def export_model(parsed: argparse.Namespace) -> int:
    """Copy a checkpoint in a smaller number format, without trainer state."""
    source = open_reference(parsed.model)
    refuse_existing(parsed.output)
    model: LlamaForCausalLM = load_model(source)
    torch.nn.Module.to(model, getattr(torch, parsed.dtype))
    model.config.dtype = parsed.dtype
    trainer = source.folder / TRAINER_FILE  # where the weights come from goes with them
    details = read_json(trainer) if trainer.is_file() else {}
    save_checkpoint(parsed.output, model, source.folder, {**details, "parent": source.revision})
    size = sum(path.stat().st_size for path in parsed.output.iterdir())
    print(f"{parsed.output}: {size / 1e6:.1f} MB, {parsed.dtype}")
    return 0


def validate_model(parsed: argparse.Namespace) -> int:
    """Measure a model on text files and print its loss."""
    validation = validate(parsed.model, tuple(parsed.files), parsed.max_windows)
    if parsed.json:
        print(json.dumps(asdict(validation), indent=2))
        return 0
    print(
        f"{validation.model} ({validation.revision}): {validation.loss:.4f} nats per token, "
        f"{validation.bits_per_byte:.4f} bits per byte over {validation.num_tokens:,} tokens "
        f"({validation.num_bytes:,} bytes)"
    )
    return 0


def validate(reference: str, files: tuple[str, ...], max_windows: int) -> Validation:
    """Return the loss of a model on the first `max_windows` windows of the shuffled text.

    The files are read, shuffled and cut as by a training stage of seed 0.

    Raises:
        OptionError: `max_windows` is below 1.
        ModelError, RunError, DataError: the model or a file cannot be read, or there is less text
            than one window.
    """
    if max_windows < 1:
        raise OptionError(f"Max windows must be at least 1; got {max_windows}.")
    source = open_reference(reference)
    end_token = end_token_of(source)
    sources = tuple(Source(kind="files", paths=(path,)) for path in files)
    stream = _tokens_with_bytes(read_documents(sources, seed=0), source.tokenizer, end_token)
    rows: list[list[int]] = []
    num_bytes = 0
    while len(rows) < max_windows:
        window = list(islice(stream, WINDOW_TOKENS - 1))
        if len(window) < WINDOW_TOKENS - 1:
            break
        rows.append([*(token for token, _ in window), end_token])
        num_bytes += sum(size for _, size in window[1:])  # the first token is given, not predicted
    if not rows:
        raise DataError(f"The text is shorter than a window of {WINDOW_TOKENS} tokens. Give more.")
    model = load_model(source)
    torch.nn.Module.to(model, describe_machine().device)
    loss = validation_loss(
        TrainingNetwork(model), torch.split(torch.tensor(rows), VALIDATION_BATCH)
    )
    num_tokens = len(rows) * (WINDOW_TOKENS - 1)
    bits_per_byte = loss * num_tokens / math.log(2) / num_bytes
    return Validation(
        reference, source.revision, loss, bits_per_byte, len(rows), num_tokens, num_bytes
    )


def _tokens_with_bytes(
    documents: Iterator[str], tokenizer: Tokenizer, end_token: int
) -> Iterator[tuple[int, int]]:
    """Yield each token with the UTF-8 bytes it stands for; an end stands for none.

    A character in several tokens counts in the first of them.
    """
    for document in documents:
        encoding = tokenizer.encode(document, add_special_tokens=False)
        done = 0
        for token, (_, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield token, len(document[done:end].encode("utf-8"))
            done = max(done, end)
        yield end_token, 0


def open_reference(reference: str) -> Checkpoint:
    """Open what the user named."""
    spec = find_model(reference)
    folder = folder_of(spec)
    if folder is None:
        raise ModelError(f"{spec.title} is not on this machine yet: hf download {spec.hub_id}")
    return open_checkpoint_folder(folder)


def refuse_existing(folder: Path) -> None:
    """Raise when writing would replace something."""
    if folder.exists():
        raise ModelError(f"{folder} exists already; give a folder that does not.")
