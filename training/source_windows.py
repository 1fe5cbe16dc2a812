"""Prepare the windows of one source: shards, what is held out of it, and the manifest.

Layout: see shards.py. The writing itself and where it goes on after a kill: see shard_writer.py.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import numpy as np

from stentor.runs import write_json
from training.shard_writer import ShardWriter
from training.shards import (
    HELD_OUT_FILE,
    MANIFEST_FILE,
    Order,
    ShardNote,
    Windows,
    digest_bytes,
    mapped,
    shard_name,
    sound_notes,
)
from training.tokenise import TokenGroup

TokenGroups = Callable[[int], Generator[TokenGroup]]
Say = Callable[[str], None]


def write_source(folder: Path, order: Order, token_groups: TokenGroups, say: Say) -> int:
    """Write what is still missing of a source; return the characters that were read for it.

    `token_groups(skip)` tokenises the source's documents after the first `skip`. Where the text
    gives less than two windows nothing is kept of it, so that more text can take its place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    notes = sound_notes(folder, order)
    if not notes or notes[0].by_documents:
        writer, num_characters = _fill(folder, order, notes, token_groups, say, by_documents=True)
        holds_both = writer.num_windows and writer.held_out.num_windows
        if holds_both or writer.num_windows + writer.num_spare >= 2:
            _finish(folder, order, writer)
            return num_characters
        notes = []  # too short to keep documents apart: the whole text again, split by windows
    writer, num_characters = _fill(folder, order, notes, token_groups, say, by_documents=False)
    if writer.num_windows + writer.num_spare >= 2:
        _finish(folder, order, writer)
    else:
        _forget_from(folder, 0)
    return num_characters


def _fill(
    folder: Path,
    order: Order,
    notes: list[ShardNote],
    token_groups: TokenGroups,
    say: Say,
    *,
    by_documents: bool,
) -> tuple[ShardWriter, int]:
    """Write shards after those of `notes` until there is enough or no more text."""
    _forget_from(folder, len(notes))
    num_characters = 0
    with ShardWriter(folder, order, notes, by_documents=by_documents) as writer:
        if notes:
            say(f"{order.label}: going on after {writer.num_windows:,} windows")
        if writer.has_enough():
            return writer, num_characters
        with closing(token_groups(writer.num_documents)) as groups:
            for group in groups:
                num_characters += group.num_characters
                num_finished = len(writer.notes)
                writer.add(group)
                if len(writer.notes) > num_finished:
                    say(f"{order.label}: {writer.num_windows:,} windows")
                if writer.has_enough():
                    break
        writer.close_shard(writer.num_documents, 0)  # the text ended within it, if one is open
    return writer, num_characters


def _forget_from(folder: Path, index: int) -> None:
    """Delete the notes of shards from number `index` on, so that nothing goes on after them."""
    for note in folder.glob("train-*.json"):
        if int(note.stem.removeprefix("train-")) >= index:
            note.unlink()


def _finish(folder: Path, order: Order, writer: ShardWriter) -> None:
    """Settle what is held out and write the manifest."""
    num_held_out, held_out_by = writer.held_out.num_windows, "documents"
    held_out_digest = writer.held_out.digest()
    num_training = writer.num_windows
    if not num_held_out:
        held_out_by = "windows"
        windows = [*_shards(folder, order, writer.notes), writer.spare_windows()]
        num_windows = sum(map(len, windows))
        num_held_out = min(order.num_held_out_windows, num_windows // 2)
        num_training = min(order.num_training_windows, num_windows - num_held_out)
        content = _slice(windows, num_training, num_held_out).tobytes()
        (folder / HELD_OUT_FILE).write_bytes(content)
        held_out_digest = digest_bytes(content)
    manifest = {
        "identity": order.identity,
        "label": order.label,
        "dtype": order.dtype.name,
        "num_training_windows": num_training,
        "num_held_out_windows": num_held_out,
        "held_out_by": held_out_by,
        "held_out_digest": held_out_digest,
        "shards": [{"num_windows": n.num_windows, "digest": n.digest} for n in writer.notes],
    }
    write_json(folder / MANIFEST_FILE, manifest)


def _shards(folder: Path, order: Order, notes: list[ShardNote]) -> list[Windows]:
    """Map finished shards."""
    paths = [folder / f"{shard_name(index)}.bin" for index in range(len(notes))]
    return [
        mapped(path, order.dtype, note.num_windows) for path, note in zip(paths, notes, strict=True)
    ]


def _slice(parts: list[Windows], first: int, count: int) -> Windows:
    """Return the (count, 512) windows of all parts in a row from number `first` on."""
    found: list[Windows] = []
    for part in parts:
        found.append(part[max(0, first) : max(0, first + count)])
        first -= len(part)
    return np.concatenate(found)
