"""What a front end reads of one request, from any thread: records, a snapshot, the end.

The engine's worker writes; any number of readers read; whoever asked for it may cancel. A token
costs the worker an append: what readers want in one piece is put together when they ask.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from threading import Condition
from typing import NamedTuple

from stentor.engine.decoder import Alternative, Answer


class StopReason(StrEnum):
    """Why a generation ended; the value is what a user reads."""

    END_OF_TEXT = "end of text"
    TOKEN_LIMIT = "token limit"
    CONTEXT_FULL = "context full"
    STOPPED = "stopped"
    DEADLINE = "out of time"
    FAILED = "failed"


class TokenRecord(NamedTuple):
    """One token, generated or measured; see Answer for what the model's own numbers mean."""

    token_id: int
    text: str  # what became readable with this token; empty while a character is incomplete
    log_probability: float
    rank: int
    alternatives: tuple[Alternative, ...]
    seconds: float  # since the request was submitted


@dataclass(frozen=True)
class Snapshot:
    """A request as it is at one moment. Speeds are None until there is something to measure."""

    text: str
    token_ids: tuple[int, ...]
    num_tokens: int
    stop_reason: StopReason | None
    error: str | None
    queue_position: int  # 0: has a slot; 1: is next
    expected_wait_seconds: float | None  # while it waits, from what others needed lately
    seconds_to_first_token: float | None
    tokens_per_second: float | None  # from the first token to the last
    is_done: bool


class Stream:
    """One request's tokens as they come. Thread-safe."""

    def __init__(self) -> None:
        self.submitted = time.perf_counter()
        self._changed = Condition()
        self._records: list[TokenRecord] = []
        self._token_ids: list[int] = []
        self._text = ""  # of the first `_num_joined` records
        self._num_joined = 0
        self._snapshot: Snapshot | None = None  # until something changes
        self._queue_position = 0
        self._expected_wait: float | None = None
        self._stop_reason: StopReason | None = None
        self._error: str | None = None
        self._is_cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Ask for the end; the engine frees the slot before the next token. Harmless when done."""
        self._is_cancelled = True
        on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()

    @property
    def is_cancelled(self) -> bool:
        """Tell whether `cancel` was called."""
        return self._is_cancelled

    @property
    def is_done(self) -> bool:
        """Tell whether no more tokens will come."""
        return self._stop_reason is not None

    @property
    def tokens(self) -> tuple[TokenRecord, ...]:
        """Return the records so far."""
        with self._changed:
            return tuple(self._records)

    def snapshot(self) -> Snapshot:
        """Return everything a front end shows, all of one moment."""
        with self._changed:
            if self._snapshot is None:
                self._snapshot = self._take_snapshot()
            return self._snapshot

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds; return whether it came."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_done, timeout)

    def __iter__(self) -> Iterator[TokenRecord]:
        """Yield every record as it comes, from the first, until the end."""
        place = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._records) > place or self.is_done)  # noqa: B023
                fresh = self._records[place:]
            if not fresh:
                return
            yield from fresh
            place += len(fresh)

    def append(self, text: str, answer: Answer) -> None:
        """Add one token (engine only)."""
        token_id, log_probability, rank, alternatives = answer
        seconds = time.perf_counter() - self.submitted
        record = TokenRecord(token_id, text, log_probability, rank, alternatives, seconds)
        with self._changed:
            self._records.append(record)
            self._token_ids.append(token_id)
            self._snapshot = None
            self._changed.notify_all()

    def set_queue_position(self, position: int, expected_wait: float | None = None) -> None:
        """Say which place in line the request has; 0: it has a slot (engine only)."""
        with self._changed:
            self._queue_position = position
            self._expected_wait = expected_wait
            self._snapshot = None

    def on_cancel(self, call: Callable[[], None]) -> None:
        """Have `call` called when somebody cancels, until the end (engine only)."""
        self._on_cancel = call

    def finish(self, reason: StopReason, error: str | None = None) -> None:
        """End the stream (engine only); a second end changes nothing."""
        with self._changed:
            if self._stop_reason is None:
                self._queue_position, self._expected_wait = 0, None
                self._stop_reason = reason
                self._error = error
                self._on_cancel = None  # a kept stream keeps nothing of the engine
                self._snapshot = None
                self._changed.notify_all()

    def _take_snapshot(self) -> Snapshot:
        records = self._records
        fresh = records[self._num_joined :]
        self._text += "".join([record.text for record in fresh])
        self._num_joined += len(fresh)
        first = records[0].seconds if records else None
        span = records[-1].seconds - records[0].seconds if records else 0.0
        return Snapshot(
            text=self._text,
            token_ids=tuple(self._token_ids),
            num_tokens=len(records),
            stop_reason=self._stop_reason,
            error=self._error,
            queue_position=self._queue_position,
            expected_wait_seconds=self._expected_wait,
            seconds_to_first_token=first,
            tokens_per_second=(len(records) - 1) / span if span > 0.0 else None,
            is_done=self.is_done,
        )
