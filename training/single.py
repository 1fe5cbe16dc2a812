"""Verbs on one checkpoint, outside a run: expand and export."""

import argparse
import json
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from stentor.errors import ModelError
from stentor.hub import cached_folder
from stentor.knobs import from_arguments
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from stentor.models import find_model
from training.checkpoint import GROWTH_FILE, load_model, save_checkpoint
from training.recipe import ExpandSettings
from training.stages.expand import describe, grow, report_to_json


def expand_model(parsed: argparse.Namespace) -> int:
    """Grow one checkpoint into a new folder and print what that did to its function."""
    settings = from_arguments(ExpandSettings, parsed)
    parent = open_reference(parsed.model)
    refuse_existing(parsed.output)
    model, report = grow(parent, settings, parsed.seed)
    values = report_to_json(report)
    save_checkpoint(parsed.output, model, parent.folder, {"growth": values})
    print(json.dumps(values, indent=2) if parsed.json else describe(report))
    return 0


def export_model(parsed: argparse.Namespace) -> int:
    """Copy a checkpoint in a smaller number format, without trainer state."""
    source = open_reference(parsed.model)
    refuse_existing(parsed.output)
    model: LlamaForCausalLM = load_model(source)
    torch.nn.Module.to(model, getattr(torch, parsed.dtype))
    model.config.dtype = parsed.dtype
    report = source.folder / GROWTH_FILE
    growth = {"growth": read_json(report)} if report.is_file() else {}
    save_checkpoint(parsed.output, model, source.folder, {"parent": source.revision, **growth})
    size = sum(path.stat().st_size for path in parsed.output.iterdir())
    print(f"{parsed.output}: {size / 1e6:.1f} MB, {parsed.dtype}")
    return 0


def open_reference(reference: str) -> Checkpoint:
    """Open what the user named."""
    spec = find_model(reference)
    folder = spec.folder or cached_folder(spec)
    if folder is None:
        raise ModelError(f"{spec.title} is not on this machine yet: hf download {spec.hub_id}")
    return open_checkpoint_folder(folder)


def refuse_existing(folder: Path) -> None:
    """Raise when writing would replace something."""
    if folder.exists():
        raise ModelError(f"{folder} exists already; give a folder that does not.")
