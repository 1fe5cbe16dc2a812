"""What a front end reads of one request, from any thread: records, a snapshot, the end.

The engine's worker writes; any number of readers read; whoever asked for it may cancel.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from threading import Condition


class StopReason(StrEnum):
    """Why a generation ended; the value is what a user reads."""

    END_OF_TEXT = "end of text"
    TOKEN_LIMIT = "token limit"
    CONTEXT_FULL = "context full"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class TokenRecord:
    """One generated token; `log_probability` is the model's own, before any sampler."""

    token_id: int
    text: str  # what became readable with this token; empty while a character is incomplete
    log_probability: float
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
    seconds_to_first_token: float | None
    tokens_per_second: float | None  # from the first token to the last
    is_done: bool


class Stream:
    """One request's tokens as they come. Thread-safe."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._submitted = time.perf_counter()
        self._records: list[TokenRecord] = []
        self._text = ""
        self._queue_position = 0
        self._stop_reason: StopReason | None = None
        self._error: str | None = None
        self._is_cancelled = False

    def cancel(self) -> None:
        """Ask for the end; the engine frees the slot before the next token. Harmless when done."""
        self._is_cancelled = True

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
            records = self._records
            first = records[0].seconds if records else None
            span = records[-1].seconds - records[0].seconds if records else 0.0
            return Snapshot(
                text=self._text,
                token_ids=tuple(record.token_id for record in records),
                num_tokens=len(records),
                stop_reason=self._stop_reason,
                error=self._error,
                queue_position=self._queue_position,
                seconds_to_first_token=first,
                tokens_per_second=(len(records) - 1) / span if span > 0.0 else None,
                is_done=self.is_done,
            )

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

    def append(self, token_id: int, text: str, log_probability: float) -> None:
        """Add one token (engine only)."""
        with self._changed:
            seconds = time.perf_counter() - self._submitted
            self._records.append(TokenRecord(token_id, text, log_probability, seconds))
            self._text += text
            self._changed.notify_all()

    def set_queue_position(self, position: int) -> None:
        """Say which place in line the request has; 0: it has a slot (engine only)."""
        with self._changed:
            self._queue_position = position

    def finish(self, reason: StopReason, error: str | None = None) -> None:
        """End the stream (engine only); a second end changes nothing."""
        with self._changed:
            if self._stop_reason is None:
                self._queue_position = 0
                self._stop_reason = reason
                self._error = error
                self._changed.notify_all()
