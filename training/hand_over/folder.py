"""Writes the model folder of a run: weights, tokenizer, card, recipe, and GGUF if asked for."""

import re
from pathlib import Path

import torch

from stentor.errors import OptionError
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.runs import write_json
from training.checkpoint import load_model, open_sound, save_checkpoint
from training.hand_over import gguf_export
from training.hand_over.model_card import write_card
from training.hand_over.story import RunStory
from training.recipe import recipe_to_json

# As the Hub names them: mit, cc-by-sa-4.0.
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{1,40}")


def check_licence(licence: str) -> None:
    """Refuse what is no name of a licence.

    Raises:
        OptionError: it would break the card's front matter.
    """
    if not LICENCE.fullmatch(licence):
        raise OptionError(
            f"A licence is named as on the Hub, such as mit or cc-by-sa-4.0; got {licence!r:.60}."
        )


def write_folder(
    story: RunStory, output: Path, *, name: str, licence: str, dtype: str, gguf: str | None
) -> Checkpoint:
    """Write the checkpoint of a story as a folder for others; the folder appears when complete.

    Raises:
        ModelError: the checkpoint is damaged, or its tokenizer is none for a GGUF file.
        OptionError: a licence or GGUF kind that does not exist.
        DiskError: no room.
    """
    check_licence(licence)
    source_folder = story.run.checkpoints_folder / story.checkpoint
    details = open_sound(source_folder, to_resume=False)
    source = open_checkpoint_folder(source_folder)
    if gguf:
        gguf_export.check_can_write(source, gguf)
    model = load_model(source)
    torch.nn.Module.to(model, getattr(torch, dtype))
    model.config.dtype = dtype
    beside = output.with_name(f".{output.name}.partial")
    save_checkpoint(beside, model, source.folder, {**details, "parent": source.revision})
    written = open_checkpoint_folder(beside)
    write_json(beside / "recipe.json", recipe_to_json(story.recipe))
    card = write_card(story, written, name, licence)
    (beside / "README.md").write_text(card, encoding="utf-8")
    if gguf:
        gguf_export.write(source, beside / f"{output.name}-{gguf}.gguf", gguf, name)
    output.parent.mkdir(parents=True, exist_ok=True)
    beside.rename(output)
    return open_checkpoint_folder(output)
