"""Windows of one source on disk: shards of a bounded size, each finished before the next begins.

A folder holds `train-00000.bin` and so on, `held_out.bin`, and `manifest.json`, which is written
last. Beside each shard is a small JSON with its digest and how far the source has been read, so a
killed preparation goes on after its last finished shard (see shard_writer.py). Knows nothing of
mixtures and steps.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stentor.errors import DataError
from training.settings import WINDOW_TOKENS

# 16 MB of two-byte tokens: about a second's work is lost with a killed process.
SHARD_WINDOWS = 1 << 14
MANIFEST_FILE = "manifest.json"
HELD_OUT_FILE = "held_out.bin"
DIGEST_SIZE = 16

Windows = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Order:
    """What is to be on disk of one source. `identity` tells whether what is there is just that."""

    identity: str
    label: str
    dtype: np.dtype[Any]
    end_token: int
    num_training_windows: int
    num_held_out_windows: int


@dataclass(frozen=True)
class ShardNote:
    """Written beside a finished shard: what is in it, and where the source goes on after it."""

    identity: str
    by_documents: bool  # whole documents are held out, as opposed to the last windows
    num_windows: int
    digest: str
    num_documents: int  # all of whose tokens are in this shard or one before
    num_tokens_of_next: int  # of the document after those, likewise
    num_held_out_windows: int
    held_out_pending: list[int]  # tokens that do not fill a window yet
    held_out_digest: str


@dataclass(frozen=True)
class SourceWindows:
    """Finished windows of one source, memory-mapped."""

    label: str
    shards: tuple[Windows, ...]  # (windows of the shard, 512) each
    num_training_windows: int  # the first so many; what follows them is held out or left over
    held_out: Windows  # (num_held_out, 512)
    held_out_by: str  # `documents`, or `windows` where the text was too short for that
    digest: str

    def rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the (rows, 512) training windows of these numbers."""
        windows = np.empty((len(rows), WINDOW_TOKENS), np.int64)
        shards, offsets = np.divmod(rows, SHARD_WINDOWS)
        for shard in np.unique(shards):
            chosen = shards == shard
            windows[chosen] = self.shards[shard][offsets[chosen]]
        return windows


def shard_name(index: int) -> str:
    """Return the file name of a shard, without an ending."""
    return f"train-{index:05d}"


def open_source(folder: Path) -> SourceWindows:
    """Map the finished windows of a source.

    Raises:
        DataError: they are not all there.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        dtype = np.dtype(manifest["dtype"])
        counts = [shard["num_windows"] for shard in manifest["shards"]]
        names = [f"{shard_name(index)}.bin" for index in range(len(counts))]
        maps = [
            mapped(folder / name, dtype, count) for name, count in zip(names, counts, strict=True)
        ]
        return SourceWindows(
            label=manifest["label"],
            shards=tuple(maps),
            num_training_windows=manifest["num_training_windows"],
            held_out=mapped(folder / HELD_OUT_FILE, dtype, manifest["num_held_out_windows"]),
            held_out_by=manifest["held_out_by"],
            digest=digest_bytes(json.dumps(manifest, sort_keys=True).encode()),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The prepared text in {folder} is not complete ({error}). Resume the run: what is "
            "missing is prepared again."
        ) from error


def is_finished(folder: Path, order: Order) -> bool:
    """Tell whether a source is all there, byte for byte as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        if manifest["identity"] != order.identity:
            return False
        files = {f"{shard_name(i)}.bin": s["digest"] for i, s in enumerate(manifest["shards"])}
        files[HELD_OUT_FILE] = manifest["held_out_digest"]
        return all(digest_of(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def sound_notes(folder: Path, order: Order) -> list[ShardNote]:
    """Return the notes of the finished shards up to the first that is missing or damaged."""
    notes: list[ShardNote] = []
    try:
        while (path := folder / f"{shard_name(len(notes))}.json").is_file():
            note = ShardNote(**json.loads(path.read_text(encoding="utf-8")))
            size = note.num_held_out_windows * WINDOW_TOKENS * order.dtype.itemsize
            if (
                note.identity != order.identity
                or digest_of(path.with_suffix(".bin")) != note.digest
                or digest_of(folder / HELD_OUT_FILE, size) != note.held_out_digest
            ):
                break
            notes.append(note)
    except (OSError, ValueError, TypeError):
        return notes
    return notes


def new_digest() -> "hashlib.blake2b":
    """Return the hash that all files of windows are known by."""
    return hashlib.blake2b(digest_size=DIGEST_SIZE)


def digest_bytes(content: bytes) -> str:
    """Return the digest of some bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST_SIZE).hexdigest()


def digest_of(path: Path, size: int | None = None) -> str:
    """Return the digest of a file, or of its first `size` bytes."""
    digest = new_digest()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20 if size is None else min(1 << 20, size)):
            digest.update(block)
            size = None if size is None else size - len(block)
    return digest.hexdigest()


def mapped(path: Path, dtype: np.dtype[Any], num_windows: int) -> Windows:
    """Map a file of windows; it must be exactly so long."""
    if path.stat().st_size != num_windows * WINDOW_TOKENS * dtype.itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes")
    return np.memmap(path, dtype=dtype, mode="r", shape=(num_windows, WINDOW_TOKENS))
