"""The decoder of an engine, with every step in a test's view: it can be held up, and it can break.

All arithmetic is the real decoder's; a test that counts steps needs no clock.
"""

from collections.abc import Callable, Sequence
from threading import Condition

from tiny_variants import SECONDS

from stentor.engine.decoder import Answer, Decoder, Piece
from stentor.engine.engine import Engine

Fault = Callable[[Sequence[Piece]], None]


class WatchedDecoder:
    """Takes the place of an engine's decoder before its first request."""

    def __init__(
        self, engine: Engine, *, is_held: bool = False, fault: Fault | None = None
    ) -> None:
        """`fault` is called before each step and may raise; held steps wait for `advance`."""
        decoder = engine._worker._decoder
        assert decoder is not None
        self.inner: Decoder = decoder
        self.steps: list[list[Piece]] = []
        self.fault = fault
        self.is_closed = False
        self._engine = engine
        self._is_held = is_held
        self._is_at_gate = False
        self._num_allowed = 0
        self._changed = Condition()
        self.precision, self.num_slots = self.inner.precision, self.inner.num_slots
        self.cache_bytes = self.inner.cache_bytes
        engine._worker._decoder = self

    def step(self, pieces: Sequence[Piece]) -> list[tuple[Answer, ...]]:
        with self._changed:
            self._is_at_gate = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._num_allowed or not self._is_held, SECONDS)
            self._num_allowed -= self._is_held
            self._is_at_gate = False
        self.steps.append(list(pieces))
        if self.fault is not None:
            self.fault(pieces)
        return self.inner.step(pieces)

    def close(self) -> None:
        self.is_closed = True
        self.inner.close()

    def wait_at_gate(self) -> None:
        """Wait until the worker has chosen the pieces of its next step, or has nothing to do."""
        with self._changed:
            while not self._is_at_gate and self._engine.num_requests:
                self._changed.wait(0.01)

    def advance(self, num_steps: int = 1) -> None:
        """Let so many steps happen, and wait until the one after them is about to begin."""
        for _ in range(num_steps):
            self.wait_at_gate()
            with self._changed:
                self._num_allowed += 1
                self._is_at_gate = False
                self._changed.notify_all()
            self.wait_at_gate()

    def release(self) -> None:
        """Hold nothing up any more."""
        with self._changed:
            self._is_held = False
            self._changed.notify_all()

    def num_tokens(self, slot: int, step: int) -> int:
        """Return how many tokens of a slot were read in a step."""
        return sum(len(piece.token_ids) for piece in self.steps[step] if piece.slot == slot)
