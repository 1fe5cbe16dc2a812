"""Writes the model folder of a run: weights, tokenizer, card, recipe, and GGUF if asked for."""

from pathlib import Path

import torch

from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.runs import write_json
from training.checkpoint import load_model, open_sound, save_checkpoint
from training.hand_over import gguf_export
from training.hand_over.model_card import write_card
from training.hand_over.settings import NO_GGUF, HandOverSettings, check_settings
from training.hand_over.story import RunStory
from training.recipe import recipe_to_json


def write_folder(story: RunStory, output: Path, settings: HandOverSettings) -> Checkpoint:
    """Write the checkpoint of a story as a folder for others; the folder appears when complete.

    Raises:
        ModelError: the checkpoint is damaged, or its tokenizer is none for a GGUF file.
        OptionError: settings that are not allowed.
        DiskError: no room.
    """
    check_settings(settings)
    source_folder = story.run.checkpoints_folder / story.checkpoint
    details = open_sound(source_folder, to_resume=False)
    source = open_checkpoint_folder(source_folder)
    wants_gguf = settings.gguf != NO_GGUF
    if wants_gguf:
        gguf_export.check_can_write(source, settings.gguf)
    name = settings.name or story.recipe.title
    model = load_model(source)
    torch.nn.Module.to(model, getattr(torch, settings.dtype))
    model.config.dtype = settings.dtype
    beside = output.with_name(f".{output.name}.partial")
    save_checkpoint(beside, model, source.folder, {**details, "parent": source.revision})
    written = open_checkpoint_folder(beside)
    write_json(beside / "recipe.json", recipe_to_json(story.recipe))
    card = write_card(story, written, name, settings.licence)
    (beside / "README.md").write_text(card, encoding="utf-8")
    if wants_gguf:
        # From the trained weights: what was rounded for the folder is not rounded again.
        file = beside / f"{output.name}-{settings.gguf}.gguf"
        gguf_export.write(source, file, settings.gguf, name)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(output)
    return open_checkpoint_folder(output)
