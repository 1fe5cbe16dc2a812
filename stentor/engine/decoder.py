"""What the engine asks of a model, wherever it runs: read pieces of requests, say what follows.

A decoder has `num_slots` slots; each holds the keys and values of one request. One step reads one
piece for each of several slots at once and answers after those tokens that somebody asks about. No
answer depends on what else is in the step. The engine decides who is read when; it knows no
weights. A decoder belongs to one worker thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stentor.engine.sampling import SamplingSettings

# How many alternatives to a token may be asked for.
MAX_ALTERNATIVES = 10


@dataclass(frozen=True)
class Draw:
    """Choose the token that follows the last token of a piece."""

    settings: SamplingSettings
    number: float  # in [0, 1): the place in the cumulative distribution; see sampling.uniform
    num_alternatives: int = 0


@dataclass(frozen=True)
class Measure:
    """Say how likely `targets` were: the token that follows each token of a piece."""

    targets: tuple[int, ...]
    num_alternatives: int = 0


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of one request; `start` is the position of the first. 0 empties the slot.

    Every token before `start` has been read into this slot by earlier steps. A piece of a step that
    raised may be read again.
    """

    slot: int
    start: int
    token_ids: tuple[int, ...]
    ask: Draw | Measure | None = None  # None: more of the prompt follows


class Alternative(NamedTuple):
    """A likely next token; `log_probability` is the model's own, before any sampler."""

    token_id: int
    log_probability: float


class Answer(NamedTuple):
    """One token, drawn or measured. `token_id` is NOT_FINITE where the logits were NaN or infinite.

    `log_probability` and `rank` (1: the likeliest; equal ones share the best rank) are the model's
    own, before any sampler; so are the alternatives, likeliest first.
    """

    token_id: int
    log_probability: float
    rank: int
    alternatives: tuple[Alternative, ...] = ()


NOT_FINITE = -1


class Decoder(Protocol):
    """A model with its slots, on one device in one precision."""

    @property
    def precision(self) -> str:
        """The arithmetic of the weights: a key of PRECISIONS."""

    @property
    def num_slots(self) -> int:
        """How many requests can be held at the same time."""

    @property
    def cache_bytes(self) -> int:
        """The size of the keys and values of all slots."""

    def step(self, pieces: Sequence[Piece]) -> list[tuple[Answer, ...]]:
        """Read the pieces, at most one for a slot; return each piece's answers.

        No ask: no answer. Draw: one. Measure: one for each target.
        """

    def close(self) -> None:
        """Free what the decoder holds; no step may follow."""
