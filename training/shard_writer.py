"""Write the shards of one source, or go on after those that a killed preparation finished.

Where the source is to be read again from is noted with every shard: documents all of whose tokens
are on disk, and tokens of the next one. Nothing depends on how the documents were grouped, so an
interrupted preparation gives the bytes of an uninterrupted one. Layout: see shards.py.
"""

from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from stentor.runs import write_json
from training import shards
from training.encoding import Tokens
from training.settings import WINDOW_TOKENS
from training.shards import HELD_OUT_FILE, Order, ShardNote, Windows, new_digest, shard_name
from training.tokenise import TokenGroup

STREAM_TOKENS = WINDOW_TOKENS - 1  # of a window; the last is end-of-sequence


def packed(stream: Tokens, count: int, end_token: int) -> Windows:
    """Return the first (count, 512) windows of a stream of tokens."""
    windows = np.full((count, WINDOW_TOKENS), end_token, stream.dtype)
    windows[:, :-1] = stream[: count * STREAM_TOKENS].reshape(count, STREAM_TOKENS)
    return windows


class WindowFile:
    """A file of windows while it is written, and the tokens that do not fill a window yet."""

    def __init__(self, path: Path, order: Order, num_windows: int, pending: Tokens) -> None:
        """Open `path`, keeping its first `num_windows`."""
        self._order = order
        self._stream = path.open("r+b" if num_windows else "w+b")
        self._digest = new_digest()
        for _ in range(num_windows):
            self._digest.update(self._stream.read(WINDOW_TOKENS * order.dtype.itemsize))
        self._stream.truncate()
        self.num_windows = num_windows
        self.pending = pending

    def add(self, tokens: Tokens, limit: int) -> None:
        """Append tokens and write the windows that are whole now, up to `limit` in all."""
        stream = np.concatenate([self.pending, tokens])
        count = min(len(stream) // STREAM_TOKENS, limit - self.num_windows)
        content = packed(stream, count, self._order.end_token).tobytes()
        self._stream.write(content)
        self._digest.update(content)
        self.num_windows += count
        is_full = self.num_windows == limit
        self.pending = stream[:0] if is_full else stream[count * STREAM_TOKENS :].copy()

    def digest(self) -> str:
        """Return the digest of all that was written."""
        return self._digest.hexdigest()

    def flush(self) -> None:
        """Hand what was written to the system, so that a kill does not lose it."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file; nothing can be added."""
        self._stream.close()


class ShardWriter:
    """Distributes tokens over shards and held-out windows; `with` closes its files.

    `num_windows` are on disk to be trained on, `num_documents` were read, and `notes` are those of
    the finished shards.
    """

    def __init__(
        self, folder: Path, order: Order, notes: list[ShardNote], *, by_documents: bool
    ) -> None:
        self._folder = folder
        self._order = order
        self._by_documents = by_documents
        last = notes[-1] if notes else None
        self.notes = list(notes)
        self.num_windows = sum(note.num_windows for note in notes)
        self.num_documents = last.num_documents if last else 0
        self._num_skipped = last.num_tokens_of_next if last else 0
        pending = np.array(last.held_out_pending if last else [], order.dtype)
        num_held_out = last.num_held_out_windows if last else 0
        self.held_out = WindowFile(folder / HELD_OUT_FILE, order, num_held_out, pending)
        self._shard: WindowFile | None = None
        # Text after the windows to train on, for a source that has no document to hold out. It is
        # not on disk: a preparation that goes on after the last shard reads it again.
        self._spare = np.zeros(0, order.dtype)
        # Before there are enough windows, only the end of the text leaves a shard that is not full.
        self._is_at_end = bool(
            last
            and last.num_windows < shards.SHARD_WINDOWS
            and self.num_windows < order.num_training_windows
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.held_out.close()
        if self._shard:
            self._shard.close()

    @property
    def num_spare(self) -> int:
        """The windows after those to train on, at most as many as are to be held out."""
        return len(self._spare) // STREAM_TOKENS

    def spare_windows(self) -> Windows:
        """Return the (num_spare, 512) windows after those to train on."""
        return packed(self._spare, self.num_spare, self._order.end_token)

    def has_enough(self) -> bool:
        """Tell whether no more text is needed."""
        num_held_out = self.held_out.num_windows if self._by_documents else self.num_spare
        return self._is_at_end or (
            self.num_windows == self._order.num_training_windows
            and num_held_out == self._order.num_held_out_windows
        )

    def add(self, group: TokenGroup) -> None:
        """Append the documents of a group, closing every shard that is complete."""
        is_held_out = group.is_held_out & self._by_documents
        in_held_out = np.repeat(is_held_out, group.lengths)
        training, held_out = group.tokens[~in_held_out], group.tokens[in_held_out]
        ends = np.cumsum(np.where(is_held_out, 0, group.lengths))
        held_out_ends = np.cumsum(np.where(is_held_out, group.lengths, 0))
        done, held_out_done = self._num_skipped, 0
        self._num_skipped = 0
        needed = self._order.num_training_windows
        while done < len(training) and self.num_windows < needed:
            done += self._add_to_shard(training[done:])
            if self._shard_is_complete():
                whole = int(np.searchsorted(ends, done, side="right"))
                if whole:
                    self._hold_out(held_out[held_out_done : held_out_ends[whole - 1]])
                    held_out_done = int(held_out_ends[whole - 1])
                begun = done - (int(ends[whole - 1]) if whole else 0)
                self.close_shard(self.num_documents + whole, begun)
        if self.num_windows == needed:
            limit = self._order.num_held_out_windows * STREAM_TOKENS
            self._spare = np.concatenate([self._spare, training[done:]])[:limit]
        self._hold_out(held_out[held_out_done:])
        self.num_documents += len(group.lengths)

    def _add_to_shard(self, tokens: Tokens) -> int:
        """Give the shard in work what it has room for, and return how many tokens that was."""
        shard = self._open_shard()
        before = shard.num_windows
        still_needed = self._order.num_training_windows - self.num_windows
        room = min(shards.SHARD_WINDOWS - before, still_needed)
        taken = tokens[: room * STREAM_TOKENS - len(shard.pending)]
        shard.add(taken, before + room)
        self.num_windows += shard.num_windows - before
        return len(taken)

    def _shard_is_complete(self) -> bool:
        assert self._shard is not None
        is_full = self._shard.num_windows == shards.SHARD_WINDOWS
        return is_full or self.num_windows == self._order.num_training_windows

    def _hold_out(self, tokens: Tokens) -> None:
        self.held_out.add(tokens, self._order.num_held_out_windows)

    def _open_shard(self) -> WindowFile:
        if self._shard is None:
            path = self._folder / f"{shard_name(len(self.notes))}.bin"
            self._shard = WindowFile(path, self._order, 0, np.zeros(0, self._order.dtype))
        return self._shard

    def close_shard(self, num_documents: int, num_tokens_of_next: int) -> None:
        """Finish the shard in work, if it holds a window, and note where the source goes on."""
        shard = self._shard
        if shard is None or not shard.num_windows:
            return
        shard.close()
        self.held_out.flush()
        note = ShardNote(
            identity=self._order.identity,
            by_documents=self._by_documents,
            num_windows=shard.num_windows,
            digest=shard.digest(),
            num_documents=num_documents,
            num_tokens_of_next=num_tokens_of_next,
            num_held_out_windows=self.held_out.num_windows,
            held_out_pending=self.held_out.pending.tolist(),
            held_out_digest=self.held_out.digest(),
        )
        write_json(self._folder / f"{shard_name(len(self.notes))}.json", asdict(note))
        self.notes.append(note)
        self._shard = None
