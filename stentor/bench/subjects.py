"""What is measured: known models, and the real shapes with random weights; and their prompts.

End-of-text tokens are ignored, so that every user gets exactly as many tokens as asked for: a text
that ends early by chance would measure something else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

from stentor.bench.random_checkpoint import SHAPES, write_random_checkpoint
from stentor.commands import fetch_if_missing
from stentor.errors import ModelError
from stentor.hub import folder_of
from stentor.loading import Checkpoint, LlamaShape, open_checkpoint_folder
from stentor.models import find_model
from stentor.prompts import categories

TRAINED, RANDOM = "trained", "random"


@dataclass(frozen=True)
class Subject:
    """One model; `weights` is TRAINED or RANDOM."""

    name: str
    weights: str
    checkpoint: Checkpoint


def open_subjects(references: Sequence[str], with_shapes: bool, folder: Path) -> list[Subject]:
    """Open the models named, then the real shapes, whose weights are written below `folder`.

    Raises:
        StentorError: a model cannot be found or loaded.
    """
    subjects = [_open_known(reference) for reference in references]
    if with_shapes:
        subjects += [_open_shape(name, shape, folder / name) for name, shape in SHAPES.items()]
    return subjects


def _open_known(reference: str) -> Subject:
    fetch_if_missing(reference)
    spec = find_model(reference)
    folder = folder_of(spec)
    if folder is None:
        raise ModelError(f"{spec.title} is not on this machine. Choose another model.")
    return Subject(spec.name, TRAINED, _endless(open_checkpoint_folder(folder)))


def _open_shape(name: str, shape: LlamaShape, folder: Path) -> Subject:
    write_random_checkpoint(folder, shape)
    return Subject(f"{name}-shape", RANDOM, _endless(open_checkpoint_folder(folder)))


def _endless(checkpoint: Checkpoint) -> Checkpoint:
    return replace(checkpoint, end_tokens=frozenset())


def make_prompts(
    checkpoint: Checkpoint, num_users: int, num_tokens: int
) -> tuple[tuple[int, ...], ...]:
    """Return a prompt of `num_tokens` for each user, cut from the project's own prompts."""
    text = "\n".join(
        prompt.text for category in categories().values() for prompt in category.prompts
    )
    token_ids: list[int] = checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
    starts = (user * num_tokens % len(token_ids) for user in range(num_users))
    return tuple(tuple(islice(cycle(token_ids), start, start + num_tokens)) for start in starts)
