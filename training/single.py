"""Verbs on one checkpoint, outside a run: expand, export and validate."""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from stentor.errors import ModelError, OptionError
from stentor.hub import folder_of
from stentor.knobs import from_arguments
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from stentor.models import find_model
from training.checkpoint import end_token_of, load_model, save_checkpoint
from training.growth_report import describe, report_to_json, warnings_of
from training.hardware import describe_machine
from training.integrity import TRAINER_FILE
from training.pair.measure import (
    SEED,
    cut_windows,
    held_out_windows,
    measure_texts,
)
from training.settings import ExpandSettings, Source
from training.sources import read_documents
from training.stages.expand import grow


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
    num_documents: int
    only_held_out: bool


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
    trainer = source.folder / TRAINER_FILE  # where the weights come from goes with them
    details = read_json(trainer) if trainer.is_file() else {}
    export_checkpoint(source, parsed.output, parsed.dtype, details)
    size = sum(path.stat().st_size for path in parsed.output.iterdir())
    print(f"{parsed.output}: {size / 1e6:.1f} MB, {parsed.dtype}")
    return 0


def export_checkpoint(
    source: Checkpoint, output: Path, dtype: str, details: dict[str, Any]
) -> None:
    """Write a checkpoint's model in a number format of torch; `details` go to its trainer.json."""
    model: LlamaForCausalLM = load_model(source)
    torch.nn.Module.to(model, getattr(torch, dtype))
    model.config.dtype = dtype
    save_checkpoint(output, model, source.folder, {**details, "parent": source.revision})


def validate_model(parsed: argparse.Namespace) -> int:
    """Measure a model on text files and print its loss."""
    validation = validate(
        parsed.model, tuple(parsed.files), parsed.max_windows, only_held_out=parsed.held_out
    )
    if parsed.json:
        print(json.dumps(asdict(validation), indent=2))
        return 0
    kind = "held-out documents" if validation.only_held_out else "documents"
    print(
        f"{validation.model} ({validation.revision}): {validation.loss:.4f} nats per token, "
        f"{validation.bits_per_byte:.4f} bits per byte over {validation.num_tokens:,} tokens "
        f"({validation.num_bytes:,} bytes of {validation.num_documents:,} {kind})"
    )
    return 0


def validate(
    reference: str, files: tuple[str, ...], max_windows: int, *, only_held_out: bool = False
) -> Validation:
    """Return the loss of a model on the first `max_windows` windows of the shuffled text.

    The files are read, shuffled and cut as by a training stage of seed 0. `only_held_out`: of the
    documents that no stage trains on, and evenly from all of those.

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
    if only_held_out:
        text = held_out_windows(sources, source.tokenizer, end_token, max_windows)
    else:
        documents = read_documents(sources, SEED)
        text = cut_windows(documents, source.tokenizer, end_token, max_windows)
    device = torch.device(describe_machine().device)
    found = measure_texts(source, {"": text}, device)[""]
    return Validation(
        model=reference,
        revision=source.revision,
        loss=found.loss,
        bits_per_byte=found.bits_per_byte,
        num_windows=len(text.windows),
        num_tokens=text.num_predicted,
        num_bytes=text.num_bytes,
        num_documents=text.num_documents,
        only_held_out=only_held_out,
    )


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
