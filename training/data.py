"""From documents to packed windows on disk, and from a step number to its batch.

A window is 511 tokens of the text stream and end-of-sequence, as Stentor-Big was trained. Which
documents are held out is decided by their text alone, so no stage of any run trains on a document
that another one is validated on. Windows are written once to two memory-mapped files; the manifest
is written last, so a killed preparation starts anew and a finished one is never repeated. The batch
of a step depends only on the seed and the step number: a resumed run reads exactly what the
uninterrupted one would have read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stentor.errors import DataError
from stentor.runs import write_json
from training.settings import WINDOW_TOKENS, PretrainSettings

TOKENS_FILE = "tokens.bin"
HELD_OUT_FILE = "held_out.bin"
MANIFEST_FILE = "manifest.json"
# One document in so many is never trained on. Changing it puts held-out text into training.
HELD_OUT_SHARE = 32
# Tokenised at once, whichever is reached first; the library spreads documents over the cores and
# needs about a hundred bytes a token for a moment.
DOCUMENTS_PER_BATCH = 64
CHARACTERS_PER_BATCH = 4_000_000

Windows = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class PackedWindows:
    """Windows on disk, to train on and held out; no window is in both.

    `held_out_by`: `documents` where whole documents were kept apart, `windows` where the text was
    too short for that and its last windows are held out.
    """

    training: Windows  # (num_windows, 512)
    held_out: Windows  # (num_windows, 512)
    held_out_by: str
    seed: int

    def batch_of_step(self, step: int, batch_size: int) -> torch.Tensor:
        """Return the (batch_size, 512) windows of optimizer step `step` (0-based)."""
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, offsets = np.divmod(positions, len(self.training))
        orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        rows = [orders[int(e)][o] for e, o in zip(epochs, offsets, strict=True)]
        return _to_tensor(self.training[np.array(rows)])

    def validation_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield all held-out windows, up to `batch_size` at a time."""
        for first in range(0, len(self.held_out), batch_size):
            yield _to_tensor(self.held_out[first : first + batch_size])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Return the training rows in the order of one epoch."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.training))


def _to_tensor(windows: Windows) -> torch.Tensor:
    return torch.from_numpy(windows.astype(np.int64))


def is_held_out(document: str) -> bool:
    """Tell whether a document is for validation only: the same answer in every stage and run."""
    digest = hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


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
        folder.mkdir(parents=True, exist_ok=True)
        _write_windows(documents, tokenizer, end_token, settings, folder)
    return open_windows(folder, seed)


def open_windows(folder: Path, seed: int) -> PackedWindows:
    """Map finished windows."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))

    def mapped(name: str, num_windows: int) -> Windows:
        shape = (num_windows, WINDOW_TOKENS)
        return np.memmap(folder / name, dtype=manifest["dtype"], mode="r", shape=shape)

    return PackedWindows(
        training=mapped(TOKENS_FILE, manifest["num_training_windows"]),
        held_out=mapped(HELD_OUT_FILE, manifest["num_held_out_windows"]),
        held_out_by=manifest["held_out_by"],
        seed=seed,
    )


def _is_prepared(folder: Path) -> bool:
    """Tell whether the manifest is there and the tokens it speaks of are all on the disk."""
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        window_bytes = np.dtype(manifest["dtype"]).itemsize * WINDOW_TOKENS
        sizes = [(folder / name).stat().st_size for name in (TOKENS_FILE, HELD_OUT_FILE)]
        counts = [manifest["num_training_windows"], manifest["num_held_out_windows"]]
        return sizes == [count * window_bytes for count in counts] and "held_out_by" in manifest
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_windows(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    end_token: int,
    settings: PretrainSettings,
    folder: Path,
) -> None:
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 1 << 16 else np.uint32
    needed = settings.total_steps() * settings.batch_size
    wanted = settings.validation_windows
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    with (folder / TOKENS_FILE).open("w+b") as first, (folder / HELD_OUT_FILE).open("w+b") as last:
        # A few windows more than needed are packed, for a text that has no document to hold out.
        training = _Part(first, needed + wanted, end_token, dtype)
        held_out = _Part(last, wanted, end_token, dtype)
        num_characters = 0
        for group in _groups(documents):
            num_characters += sum(map(len, group))
            training.add(tokenizer, [text for text in group if not is_held_out(text)])
            held_out.add(tokenizer, [text for text in group if is_held_out(text)])
            if training.num_windows >= needed and held_out.is_full():
                break
        held_out_by = _divide(training, held_out, needed, wanted)
    num_windows = training.num_windows + held_out.num_windows
    if num_windows < 2:
        raise DataError(
            f"The text gives {num_windows} windows of {WINDOW_TOKENS} tokens ({num_characters:,} "
            "characters); at least two are needed, one to train and one to test. Give more text."
        )
    manifest = {
        "num_training_windows": training.num_windows,
        "num_held_out_windows": held_out.num_windows,
        "held_out_by": held_out_by,
        "dtype": np.dtype(dtype).name,
    }
    write_json(folder / MANIFEST_FILE, manifest)


@dataclass
class _Part:
    """One of the two files while it is written: whole windows in it, the rest in `pending`."""

    stream: BinaryIO
    limit: int
    end_token: int
    dtype: type[np.unsignedinteger]
    num_windows: int = 0
    pending: list[int] = field(default_factory=list)

    def is_full(self) -> bool:
        return self.num_windows >= self.limit

    def add(self, tokenizer: Tokenizer, documents: list[str]) -> None:
        """Append documents, each with an end, and write the windows that are whole now."""
        if self.is_full():
            return
        for encoding in tokenizer.encode_batch_fast(documents, add_special_tokens=False):
            self.pending += [*encoding.ids, self.end_token]
        self.write(_take_windows(self.pending, self.end_token, self.limit - self.num_windows))

    def write(self, windows: NDArray[np.int64]) -> None:
        self.stream.write(windows.astype(self.dtype).tobytes())
        self.num_windows += len(windows)

    def cut(self, num_windows: int) -> NDArray[np.int64]:
        """Keep the first `num_windows` in the file and return those after them."""
        self.num_windows = num_windows
        end = num_windows * WINDOW_TOKENS * np.dtype(self.dtype).itemsize
        self.stream.seek(end)
        rest = np.frombuffer(self.stream.read(), self.dtype).astype(np.int64)
        self.stream.seek(end)
        self.stream.truncate()
        return rest.reshape(-1, WINDOW_TOKENS)

    def take_over(self, other: "_Part") -> None:
        """Append all the text of another part, and leave that one empty."""
        for part in (self, other):
            text = part.cut(0)[:, :-1].flatten().tolist()
            part.pending[:0] = text
        self.pending += other.pending
        self.write(_take_windows(self.pending, self.end_token, self.limit))


def _divide(training: _Part, held_out: _Part, needed: int, wanted: int) -> str:
    """Settle what is in which file, and return what was held out: `documents` or `windows`."""
    if training.num_windows and held_out.num_windows:
        training.cut(min(needed, training.num_windows))
        return "documents"
    if training.num_windows < 2:
        training.take_over(held_out)
    num_held_out = min(wanted, training.num_windows // 2)
    held_out.write(training.cut(training.num_windows - num_held_out))
    return "windows"


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


def _take_windows(pending: list[int], end_token: int, limit: int) -> NDArray[np.int64]:
    """Cut whole windows off the front of `pending` (which is changed), at most `limit`."""
    width = WINDOW_TOKENS - 1
    num_windows = min(len(pending) // width, limit)
    windows = np.full((num_windows, WINDOW_TOKENS), end_token, dtype=np.int64)
    windows[:, :width] = np.array(pending[: num_windows * width]).reshape(num_windows, width)
    del pending[: num_windows * width]
    return windows
