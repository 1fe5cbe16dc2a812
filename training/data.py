"""Prepare the data of one stage: from its sources to windows on disk.

A window is 511 tokens of a source's text and end-of-sequence, as Stentor-Big was trained. Which
documents are held out is decided by their text alone, so no stage of any run trains on a document
that another one is validated on. Each source has a folder of shards (shards.py); the manifest of
the stage is written last. What reads them is in stage_data.py.
"""

import json
import re
from collections.abc import Callable, Generator
from pathlib import Path

from tokenizers import Tokenizer

from stentor.errors import DataError
from stentor.runs import write_json
from training import shards
from training.disk import writing
from training.encoding import token_dtype
from training.mixture import make_mixture, shares
from training.settings import WINDOW_TOKENS, PretrainSettings, Source
from training.shards import Order, is_finished
from training.source_windows import write_source
from training.sources import holds_text, no_text, read_source
from training.stage_data import (
    MANIFEST_FILE,
    HeldOut,
    Place,
    StageData,
    digest_of_values,
    open_stage_data,
)
from training.tokenise import HELD_OUT_SHARE, TokenGroup, tokenise

__all__ = [
    "HeldOut",
    "Place",
    "StageData",
    "open_stage_data",
    "prepare_stage_data",
]

# Part of every identity: another number makes prepared text be prepared again.
FORMAT = 1

Say = Callable[[str], None]


def prepare_stage_data(
    sources: tuple[Source, ...],
    tokenizer: Tokenizer,
    end_token: int,
    settings: PretrainSettings,
    folder: Path,
    seed: int,
    say: Say,
) -> StageData:
    """Return the stage's windows, writing to `folder` what is not there yet.

    Of each source only as many documents are read as the stage needs. A source of fewer windows
    than its share is read several times, up to `settings.max_epochs`. What a killed preparation
    finished is kept, and a finished one is never repeated.

    Raises:
        DataError: a source that cannot be read, or has too little text.
        DiskError: the disk is full.
    """
    asked = digest_of_values(
        [FORMAT, shards.SHARD_WINDOWS, HELD_OUT_SHARE, seed, end_token, tokenizer.to_str()]
    )
    total = settings.total_steps() * settings.batch_size
    identity = digest_of_values(
        [asked, [source.identity() for source in sources], total, settings.validation_windows]
    )
    with writing("Prepared text", folder, only_when_full=True):
        kept = _kept_before(folder, identity)
        kept = _with_text(sources, say) if kept is None else kept
        chosen = [sources[index] for index in kept]
        weights = tuple(source.weight for source in chosen)
        needed = make_mixture(weights, seed).windows_before(total)
        held_out = shares(weights, settings.validation_windows, at_least=1)
        names = [f"{index}-{_slug(source)}" for index, source in zip(kept, chosen, strict=True)]
        for source, name, *counts in zip(chosen, names, needed, held_out, strict=True):
            order = Order(
                identity=digest_of_values([asked, source.identity(), counts]),
                label=source.describe(),
                dtype=token_dtype(tokenizer, end_token),
                end_token=end_token,
                num_training_windows=max(1, counts[0]),
                num_held_out_windows=counts[1],
            )
            _prepare_source(source, order, folder / name, tokenizer, seed, say)
        manifest = {
            "identity": identity,
            "total_windows": total,
            "kept": kept,
            "folders": names,
            "weights": weights,
        }
        write_json(folder / MANIFEST_FILE, manifest)
    data = open_stage_data(folder, seed)
    _check_epochs(data, settings)
    return data


def _prepare_source(
    source: Source, order: Order, folder: Path, tokenizer: Tokenizer, seed: int, say: Say
) -> None:
    """Write the windows of one source, unless they are there."""
    if is_finished(folder, order):
        return

    def token_groups(skip: int) -> Generator[TokenGroup]:
        documents = read_source(source, seed, skip, say)
        return tokenise(documents, tokenizer, order.end_token)

    num_characters = write_source(folder, order, token_groups, say)
    if (folder / shards.MANIFEST_FILE).exists():
        return
    if not num_characters:
        raise no_text(source)
    raise DataError(
        f"The text of {order.label} ({num_characters:,} characters) is shorter than two windows of "
        f"{WINDOW_TOKENS} tokens; at least two are needed, one to train and one to test. "
        "Give more text, or put short texts into one file or folder."
    )


def _kept_before(folder: Path, identity: str) -> list[int] | None:
    """Return which sources a finished preparation of the same stage has; None: there is none."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        return list(manifest["kept"]) if manifest["identity"] == identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _with_text(sources: tuple[Source, ...], say: Say) -> list[int]:
    """Return which sources hold text; blank ones among them are left out and said so."""
    kept = [index for index, source in enumerate(sources) if holds_text(source)]
    blank = [source.describe() for index, source in enumerate(sources) if index not in kept]
    if not kept:
        raise DataError(f"There is no text in {', '.join(blank)}. Give a file that holds some.")
    for label in blank:
        say(f"{label} holds no text and is left out.")
    return kept


def _check_epochs(data: StageData, settings: PretrainSettings) -> None:
    """Refuse to read any source more often than the settings allow."""
    problems = [
        f"{part.label} would be read {epochs:.1f} times"
        for part, epochs in zip(data.held_out, data.epochs_of_source, strict=True)
        if epochs > settings.max_epochs + 1e-9
    ]
    if problems:
        weight = ", give it a smaller weight" if len(data.held_out) > 1 else ""
        raise DataError(
            f"{'; '.join(problems)}; at most {settings.max_epochs:g} times is allowed. Give more "
            f"text, train on fewer tokens or steps{weight}, or raise max_epochs."
        )


def _slug(source: Source) -> str:
    """Return a source's name as a part of a folder name."""
    return re.sub(r"[^a-z0-9]+", "-", source.describe().lower()).strip("-")[:40] or "text"
