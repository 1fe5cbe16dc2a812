"""From documents to packed windows on disk, and from a step number to its batch.

A window is 511 tokens of the text stream and end-of-sequence, as Stentor-Big was trained. Windows
are written once to a memory-mapped file; the manifest is written last, so a killed preparation
starts anew and a finished one is never repeated. The batch of a step depends only on the seed and
the step number: a resumed run reads exactly what the uninterrupted one would have read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stentor.errors import DataError
from stentor.runs import write_json
from training.recipe import WINDOW_TOKENS, PretrainSettings

TOKENS_FILE = "tokens.bin"
MANIFEST_FILE = "manifest.json"
# Tokenised at once, whichever is reached first; the library spreads documents over the cores and
# needs about a hundred bytes a token for a moment.
DOCUMENTS_PER_BATCH = 64
CHARACTERS_PER_BATCH = 4_000_000


@dataclass(frozen=True)
class PackedWindows:
    """Windows on disk, split into training and held-out ones; no window is in both."""

    windows: NDArray[np.unsignedinteger]  # (num_windows, 512)
    training: NDArray[np.int64]  # row numbers
    validation: NDArray[np.int64]  # row numbers
    seed: int

    def batch_of_step(self, step: int, batch_size: int) -> torch.Tensor:
        """Return the (batch_size, 512) windows of optimizer step `step` (0-based)."""
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, offsets = np.divmod(positions, len(self.training))
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        rows = [orders[int(e)][o] for e, o in zip(epochs, offsets, strict=True)]
        return self._read(np.array(rows))

    def validation_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield all held-out windows, up to `batch_size` at a time."""
        for first in range(0, len(self.validation), batch_size):
            yield self._read(self.validation[first : first + batch_size])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the training rows in the order of one epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.training)

    def _read(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self.windows[rows].astype(np.int64))


def prepare_windows(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    end_token: int,
    settings: PretrainSettings,
    folder: Path,
    seed: int,
) -> PackedWindows:
    """Return the stage's windows, writing them to `folder` unless they are there already.

    Reads only as many documents as the stage needs; fewer windows than the stage takes means that
    training goes through them several times.

    Raises:
        DataError: the text is too short for one training and one held-out window.
    """
    if not _is_prepared(folder):
        needed = settings.total_steps() * settings.batch_size + settings.validation_windows
        folder.mkdir(parents=True, exist_ok=True)
        _write_windows(documents, tokenizer, end_token, needed, folder)
    return open_windows(folder, settings.validation_windows, seed)


def open_windows(folder: Path, validation_windows: int, seed: int) -> PackedWindows:
    """Map finished windows; the held-out ones lie evenly spread over the file."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    num_windows = manifest["num_windows"]
    windows = np.memmap(
        folder / TOKENS_FILE,
        dtype=manifest["dtype"],
        mode="r",
        shape=(num_windows, WINDOW_TOKENS),
    )
    num_held_out = min(validation_windows, num_windows // 2)
    edges = np.linspace(0, num_windows, num_held_out + 1).astype(np.int64)
    validation = edges[1:] - 1
    training = np.setdiff1d(np.arange(num_windows), validation)
    return PackedWindows(windows, training, validation, seed)


def _is_prepared(folder: Path) -> bool:
    """Tell whether the manifest is there and the tokens it speaks of are all on the disk."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        width = np.dtype(manifest["dtype"]).itemsize
        size = (folder / TOKENS_FILE).stat().st_size
        return bool(size == manifest["num_windows"] * WINDOW_TOKENS * width)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_windows(
    documents: Iterator[str], tokenizer: Tokenizer, end_token: int, needed: int, folder: Path
) -> None:
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    num_windows = 0
    num_characters = 0
    digest = hashlib.sha256()
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    pending: list[int] = []
    with (folder / TOKENS_FILE).open("wb") as stream:
        for group in _groups(documents):
            num_characters += sum(map(len, group))
            for encoding in tokenizer.encode_batch_fast(group, add_special_tokens=False):
                pending += [*encoding.ids, end_token]
            block = _take_windows(pending, end_token, needed - num_windows, dtype)
            num_windows += len(block)
            digest.update(block.tobytes())
            block.tofile(stream)
            if num_windows >= needed:
                break
    if num_windows < 2:
        raise DataError(
            f"The text gives {num_windows} windows of {WINDOW_TOKENS} tokens ({num_characters:,} "
            "characters); at least two are needed, one to train and one to test. Give more text."
        )
    manifest = {
        "num_windows": num_windows,
        "window_tokens": WINDOW_TOKENS,
        "dtype": np.dtype(dtype).name,
        "num_characters": num_characters,
        "sha256": digest.hexdigest(),
    }
    write_json(folder / MANIFEST_FILE, manifest)


def _groups(documents: Iterator[str]) -> Iterator[list[str]]:
    """Yield the documents in lists of a bounded size."""
    group: list[str] = []
    held = 0
    for document in documents:
        group.append(document)
        held += len(document)
        if held >= CHARACTERS_PER_BATCH or len(group) == DOCUMENTS_PER_BATCH:
            yield group
            group, held = [], 0
    yield group


def _take_windows(
    pending: list[int], end_token: int, limit: int, dtype: type[np.unsignedinteger]
) -> NDArray[np.unsignedinteger]:
    """Cut whole windows off the front of `pending` (which is changed), at most `limit`."""
    width = WINDOW_TOKENS - 1
    num_windows = min(len(pending) // width, limit)
    block = np.full((num_windows, WINDOW_TOKENS), end_token, dtype=dtype)
    block[:, :width] = np.array(pending[: num_windows * width]).reshape(num_windows, width)
    del pending[: num_windows * width]
    return block
