"""A tiny run that packs its pair at the end, with text that the test writes itself."""

from dataclasses import replace
from pathlib import Path

from stage_texts import held_out_text, texts, written
from tiny_recipe import GROWN, TRAINING, tiny_recipe

from training.recipe import Recipe, Stage
from training.settings import Source

QUICK = replace(TRAINING, num_steps=2, validate_every=2, checkpoint_every=2, validation_windows=1)


def write_texts(folder: Path) -> tuple[Source, Source]:
    """Write two texts of a hundred documents, of each two that are held out and fill windows."""
    sources = []
    for name in ("general", "story"):
        documents = [*texts(100, name), held_out_text(400), f"{name} {held_out_text(1)}"]
        sources.append(replace(written(folder / f"stage_{name}.jsonl", documents), name=name))
    return sources[0], sources[1]


def pair_recipe(start_folder: Path, sources: tuple[Source, Source]) -> Recipe:
    """Return: two steps on the first text, expand 32 to 64 channels, two steps on each text.

    The base is grown after its first step and goes on to its second by itself.
    """
    general, story = (replace(QUICK, sources=(source,)) for source in sources)
    return replace(
        tiny_recipe(start_folder),
        stages=(
            Stage("base", "pretrain", "Base", replace(general, branch_fraction=0.5)),
            Stage("expand", "expand", "Grow", GROWN),
            Stage("general", "pretrain", "General", general),
            Stage("story", "pretrain", "Story", story),
        ),
        pair=("base", "story"),
        sample_prompts=(),
    )
