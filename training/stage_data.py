"""The finished data of one stage: from a step number to its batch, and where that lies on disk.

A step takes windows of every source by weight (mixture.py), each source in a seeded order of its
own every epoch. A batch depends on nothing but seed and step: a resumed run reads exactly what the
uninterrupted one would have read. Knows no text; data.py writes what is read here.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stentor.errors import DataError
from training import shards
from training.mixture import Mixture, make_mixture, shuffled_rows
from training.settings import WINDOW_TOKENS
from training.shards import SourceWindows, Windows, open_source

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Place:
    """Where one training window lies: the pass over its source, and the window on disk."""

    source: int
    label: str
    epoch: int
    shard: int
    offset: int


@dataclass(frozen=True)
class HeldOut:
    """The held-out windows of one source."""

    label: str
    windows: Windows  # (num_windows, 512)


class StageData:
    """The windows of one stage, read-only and memory-mapped; no window is trained on and held out.

    `held_out_by`: `documents` where whole documents were kept apart, `windows` where the text of a
    source was too short for that and its last windows are held out. `epochs`: the most times that
    the stage reads any source.
    """

    def __init__(
        self, sources: tuple[SourceWindows, ...], mixture: Mixture, total_windows: int, seed: int
    ) -> None:
        self.held_out = tuple(HeldOut(source.label, source.held_out) for source in sources)
        kinds = {source.held_out_by for source in sources}
        self.held_out_by = "windows" if "windows" in kinds else "documents"
        self.num_training_windows = sum(source.num_training_windows for source in sources)
        self.epochs_of_source = tuple(
            windows / source.num_training_windows
            for source, windows in zip(sources, mixture.windows_before(total_windows), strict=True)
        )
        self.epochs = max(self.epochs_of_source)
        identity = [seed, mixture.counts, [source.digest for source in sources]]
        self.fingerprint = digest_of_values(identity)
        self._sources = sources
        self._mixture = mixture
        self._seed = seed

    def batch_of_step(self, step: int, batch_size: int) -> torch.Tensor:
        """Return the (batch_size, 512) windows of optimizer step `step` (0-based)."""
        source_of, _, rows = self._locate(_numbers(step, batch_size))
        windows = np.empty((batch_size, WINDOW_TOKENS), np.int64)
        for index in np.unique(source_of):
            chosen = source_of == index
            windows[chosen] = self._sources[index].rows(rows[chosen])
        return torch.from_numpy(windows)

    def places_of_step(self, step: int, batch_size: int) -> list[Place]:
        """Return where each window of a step lies."""
        return self._places(*self._locate(_numbers(step, batch_size)))

    def position(self, step: int, batch_size: int) -> dict[str, Any]:
        """Return, as JSON values, what the data is and where step `step` (0-based) goes on in it:
        for every source the pass, the shard and the offset of its next window.
        """
        before = self._mixture.windows_before(step * batch_size)
        source_of = np.arange(len(self._sources))
        epochs, rows = self._rows(source_of, np.array(before, np.int64))
        return {
            "fingerprint": self.fingerprint,
            "window": step * batch_size,
            "sources": [asdict(place) for place in self._places(source_of, epochs, rows)],
        }

    def check_position(self, saved: dict[str, Any], step: int, batch_size: int) -> None:
        """Make sure that training goes on in the data that it began with.

        Raises:
            DataError: the text, the weights, the seed or the batch size is another.
        """
        here = self.position(step, batch_size)
        if saved == here:
            return
        what = "position" if saved.get("fingerprint") == here["fingerprint"] else "text"
        raise DataError(
            f"The checkpoint of step {step} was trained on data with another {what} than the data "
            f"folder has now (saved {_brief(saved)}, found {_brief(here)}). Put the data folder of "
            "the run back, or start a new run."
        )

    def validation_batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """Yield all held-out windows of all sources, up to `batch_size` at a time."""
        windows = np.concatenate([part.windows for part in self.held_out])
        for first in range(0, len(windows), batch_size):
            yield torch.from_numpy(windows[first : first + batch_size].astype(np.int64))

    def _locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return (source, epoch, row) of training windows by number."""
        source_of, seen = self._mixture.locate(numbers)
        return source_of, *self._rows(source_of, seen)

    def _rows(
        self, source_of: NDArray[np.int64], seen: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (epoch, row) of the windows before which `seen` of their source were read."""
        sizes = np.array([source.num_training_windows for source in self._sources])
        epochs, places = np.divmod(seen, sizes[source_of])
        rows = np.empty_like(places)
        for index, epoch in {(int(i), int(e)) for i, e in zip(source_of, epochs, strict=True)}:
            chosen = (source_of == index) & (epochs == epoch)
            order = (self._seed, index, epoch)
            rows[chosen] = shuffled_rows(places[chosen], int(sizes[index]), order)
        return epochs, rows

    def _places(
        self, source_of: NDArray[np.int64], epochs: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> list[Place]:
        found = zip(source_of.tolist(), epochs.tolist(), rows.tolist(), strict=True)
        return [
            Place(source, self._sources[source].label, epoch, *divmod(row, shards.SHARD_WINDOWS))
            for source, epoch, row in found
        ]


def open_stage_data(folder: Path, seed: int) -> StageData:
    """Map the finished windows of a stage.

    Raises:
        DataError: they are not all there.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        names, weights = manifest["folders"], tuple(manifest["weights"])
        total_windows = manifest["total_windows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"There is no finished data in {folder} ({error}).") from error
    opened = tuple(open_source(folder / name) for name in names)
    return StageData(opened, make_mixture(weights, seed), total_windows, seed)


def _numbers(step: int, batch_size: int) -> NDArray[np.int64]:
    return np.arange(step * batch_size, (step + 1) * batch_size)


def digest_of_values(value: object) -> str:
    """Return the digest of JSON values."""
    content = json.dumps(value, sort_keys=True).encode("utf-8")
    return hashlib.blake2b(content, digest_size=shards.DIGEST_SIZE).hexdigest()


def _brief(position: dict[str, Any]) -> str:
    return f"{str(position.get('fingerprint'))[:12]} at window {position.get('window')}"
