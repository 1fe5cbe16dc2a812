"""Asking for answers about a row of logits, and a slow and plain reference of what they mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from kernel_entries import kept
from numpy.typing import NDArray

from stentor.engine.cpu.draw import (
    ASK,
    DRAWN,
    Answers,
    Asks,
    Sorting,
    answer,
    make_answers,
    make_sorting,
)
from stentor.engine.cpu.packing import Floats

UNWRITTEN = -99  # what is there before must not matter


@kept
def answer_all(
    logits: Floats, seen: NDArray[np.uint8], asks: Asks, room: Sorting, answers: Answers
) -> None:
    """Answer each ask from the row of its slot."""
    for place in range(asks.size):
        slot = asks[place].slot
        answer(logits[slot], seen[slot], asks[place], room, answers, place)


@dataclass(frozen=True)
class Ask:
    number: float = 0.5
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    target: int = DRAWN
    num_alternatives: int = 0


def answers_to(logits: Floats, asks: Sequence[Ask], seen: Sequence[int] = ()) -> Answers:
    """Return the answers about one row of logits; `seen` are tokens of the text so far."""
    is_seen = np.zeros((1, logits.size), np.uint8)
    is_seen[0, list(seen)] = 1
    table = [
        (
            ask.target,
            0,
            ask.num_alternatives,
            ask.top_k,
            ask.temperature,
            ask.repetition_penalty,
            ask.top_p,
            ask.min_p,
            ask.number,
        )
        for ask in asks
    ]
    room = Sorting(*(array[0] for array in make_sorting(1, logits.size)))
    answers = make_answers(len(asks))
    for array in (*room, *answers):
        array.fill(UNWRITTEN)
    row = logits.astype(np.float32)[None]
    answer_all(row, is_seen, np.array(table, ASK), room, answers)
    return answers


def drawn(logits: Floats, asks: Sequence[Ask], seen: Sequence[int] = ()) -> list[int]:
    tokens: list[int] = answers_to(logits, asks, seen).token_ids.tolist()
    return tokens


def penalised(logits: Floats, ask: Ask, seen: Sequence[int]) -> Floats:
    values = logits.astype(np.float32)
    penalty = np.float32(ask.repetition_penalty)
    for token in set(seen):
        values[token] = values[token] * penalty if values[token] < 0 else values[token] / penalty
    return values


def prefix(logits: Floats, ask: Ask, seen: Sequence[int]) -> tuple[NDArray[np.int64], Floats]:
    """Return the tokens that are kept, likeliest first, and their masses relative to the first."""
    values = penalised(logits, ask, seen)
    scaled = (values - values.max()) / np.float32(ask.temperature)
    order = np.argsort(-values, kind="stable")
    masses = np.exp(scaled[order].astype(np.float64))
    kept_by_top_k = min(ask.top_k or order.size, order.size)
    reached = masses[:kept_by_top_k].cumsum() >= ask.top_p * masses[:kept_by_top_k].sum()
    kept_by_top_p = kept_by_top_k
    if ask.top_p < 1.0 and reached.any():
        kept_by_top_p = int(reached.argmax()) + 1
    kept_by_min_p = int((masses >= ask.min_p).sum())
    count = max(1, min(kept_by_top_k, kept_by_top_p, kept_by_min_p))
    return order[:count], masses[:count]


def expected(logits: Floats, ask: Ask, seen: Sequence[int] = ()) -> int:
    if ask.temperature == 0.0:
        return int(penalised(logits, ask, seen).argmax())
    order, masses = prefix(logits, ask, seen)
    passed = masses.cumsum()
    return int(order[min(int((passed <= ask.number * passed[-1]).sum()), order.size - 1)])
