"""From one row of logits to an answer: the token drawn or measured, and what the model thought.

The samplers keep prefixes of one order, the tokens by falling probability, equal ones by rising id
(see sampling.py), so a draw needs only the likeliest tokens in order: as many as the answer takes.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import EXACT, compiled
from stentor.engine.cpu.kernels import exponential, largest_value, not_finite
from stentor.engine.cpu.packing import Floats
from stentor.engine.decoder import MAX_ALTERNATIVES, NOT_FINITE

DRAWN = -1  # the target of an ask that wants a token drawn
LARGEST_FLOAT = np.finfo(np.float32).max

# One element per ask: decoder.Draw or decoder.Measure as numpy's record type, which Numba reads.
ASK = np.dtype(
    [
        ("target", np.int32),
        ("slot", np.int32),
        ("num_alternatives", np.int32),
        ("top_k", np.int32),
        ("temperature", np.float32),
        ("repetition_penalty", np.float32),
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("number", np.float64),
    ]
)
Asks = NDArray[np.void]


class Ask(Protocol):
    """One element of `Asks`, as compiled code sees it."""

    target: int
    slot: int
    num_alternatives: int
    top_k: int
    temperature: np.float32
    repetition_penalty: np.float32
    top_p: float
    min_p: float
    number: float


class Answers(NamedTuple):
    """What was found, [asks] each, and the alternatives [asks, MAX_ALTERNATIVES]."""

    token_ids: NDArray[np.int32]
    log_probabilities: NDArray[np.float64]
    ranks: NDArray[np.int32]
    alternative_ids: NDArray[np.int32]
    alternative_log_probabilities: NDArray[np.float64]


class Sorting(NamedTuple):
    """Room for one thread's draw, [vocabulary] each."""

    logits: Floats
    probabilities: Floats
    ids: NDArray[np.int32]
    other_ids: NDArray[np.int32]


def make_answers(size: int) -> Answers:
    """Return room for the answers to `size` asks."""
    return Answers(
        np.empty(size, np.int32),
        np.empty(size, np.float64),
        np.empty(size, np.int32),
        np.empty((size, MAX_ALTERNATIVES), np.int32),
        np.empty((size, MAX_ALTERNATIVES), np.float64),
    )


def make_sorting(num_threads: int, vocab_size: int) -> Sorting:
    """Return room for the draws of several threads, [threads, vocabulary] each."""
    size = num_threads, vocab_size
    return Sorting(
        np.empty(size, np.float32),
        np.empty(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
    )


@compiled()
def _log_of_total(logits: Floats) -> float:
    """Return log(sum(exp(logits)))."""
    largest, total = largest_value(logits), 0.0
    for index in range(logits.size):
        total += np.float64(exponential(logits[index] - largest))
    return np.float64(largest) + np.log(total)


@compiled(EXACT)
def _first_of_largest(values: Floats) -> int:
    largest = largest_value(values)
    for index in range(values.size):
        if values[index] == largest:
            return int(index)
    return NOT_FINITE


@compiled(EXACT)
def _penalise(logits: Floats, seen: NDArray[np.uint8], penalty: np.float32, out: Floats) -> None:
    """Divide positive and multiply negative logits of seen tokens (arXiv 1909.05858, 4.1)."""
    for index in range(logits.size):
        value = logits[index]
        changed = value * penalty if value < np.float32(0.0) else value / penalty
        # Held where it leaves fp32: no token could be drawn among infinite ones.
        changed = min(max(changed, -LARGEST_FLOAT), LARGEST_FLOAT)
        out[index] = changed if seen[index] else value


# Probabilities relative to the largest are in (0, 1]: their bits, read as an integer, are in their
# order and below 2**30, which is three digits of ten bits.
DIGITS, DIGIT_BITS = 3, 10
FEW = 48  # as many are sorted faster by insertion


@compiled(EXACT)
def _sort(room: Sorting, count: int) -> None:
    """Sort room.ids[:count] by falling probability; equal ones stay in their order."""
    ids, probabilities = room.ids, room.probabilities
    if count <= FEW:
        for end in range(1, count):
            moving, place = ids[end], end
            while place > 0 and probabilities[ids[place - 1]] < probabilities[moving]:
                ids[place] = ids[place - 1]
                place -= 1
            ids[place] = moving
        return
    source, target = ids, room.other_ids
    starts = np.empty(1 << DIGIT_BITS, np.int64)
    for digit in range(DIGITS):
        shift = np.int32(digit * DIGIT_BITS)
        starts[:] = 0
        for index in range(count):
            starts[_digit(probabilities[source[index]], shift)] += 1
        total = 0
        for value in range(starts.size):
            starts[value], total = total, total + starts[value]
        for index in range(count):
            value = _digit(probabilities[source[index]], shift)
            target[starts[value]] = source[index]
            starts[value] += 1
        source, target = target, source
    for index in range(count):  # after three digits the order is in the other array
        ids[index] = source[index]


@compiled(EXACT)
def _digit(probability: np.float32, shift: np.int32) -> int:
    bits = int(np.float32(probability).view(np.int32) >> shift)
    return (1 << DIGIT_BITS) - 1 - (bits & ((1 << DIGIT_BITS) - 1))


@compiled(EXACT)
def _gather(room: Sorting, floor: np.float32) -> int:
    """Put the ids of all tokens at least as likely as `floor` into room.ids; return how many."""
    count = 0
    for index in range(room.probabilities.size):
        if room.probabilities[index] >= floor:
            room.ids[count] = index
            count += 1
    return count


@compiled(EXACT)
def _walk(room: Sorting, count: int, floor: np.float32, total: float, ask: Ask) -> int:
    """Return the token drawn among the first `count` sorted ones, or NOT_FINITE: more are needed.

    Those are all tokens at least as likely as `floor`; `total` is the mass of the vocabulary.
    """
    is_all = floor == np.float32(0.0)
    reach, mass_of_top_k = count, total
    if ask.top_k > 0:
        if ask.top_k > count and not is_all:
            return NOT_FINITE
        reach, mass_of_top_k = min(count, ask.top_k), 0.0
        for index in range(reach):
            mass_of_top_k += room.probabilities[room.ids[index]]
    wanted = ask.top_p * mass_of_top_k if ask.top_p < 1.0 else np.inf
    kept, mass = 0, 0.0
    while kept < reach and mass < wanted:
        probability = room.probabilities[room.ids[kept]]
        if probability < ask.min_p and kept > 0:
            break
        mass += probability
        kept += 1
    is_cut = kept < count or is_all or ask.top_k > 0 or mass >= wanted or ask.min_p >= floor
    if not is_cut and (ask.top_p < 1.0 or ask.min_p > 0.0):
        return NOT_FINITE
    aim, passed = ask.number * (mass if is_cut else total), 0.0
    for index in range(kept):
        passed += room.probabilities[room.ids[index]]
        if passed > aim:
            return int(room.ids[index])
    return int(room.ids[kept - 1]) if is_cut else NOT_FINITE


LIKELY = np.float32(2.0**-10)  # of the largest: most draws end among tokens above it


@compiled()
def _draw(logits: Floats, seen: NDArray[np.uint8], ask: Ask, room: Sorting) -> int:
    """Return the token chosen by the settings of an ask."""
    if ask.repetition_penalty != np.float32(1.0):
        _penalise(logits, seen, ask.repetition_penalty, room.logits)
        logits = room.logits
    if ask.temperature == np.float32(0.0):
        return _first_of_largest(logits)
    largest, total = largest_value(logits), 0.0
    for index in range(logits.size):
        probability = exponential((logits[index] - largest) / ask.temperature)
        room.probabilities[index] = probability
        total += np.float64(probability)
    for floor in (LIKELY, np.float32(0.0)):
        count = _gather(room, floor)
        _sort(room, count)
        token_id = _walk(room, count, floor, total, ask)
        if token_id != NOT_FINITE:
            break
    return token_id


@compiled(EXACT)
def _alternatives(
    logits: Floats,
    count: int,
    log_total: float,
    ids: NDArray[np.int32],
    scores: NDArray[np.float64],
) -> None:
    """Write the `count` likeliest tokens, likeliest first."""
    found = 0
    for index in range(logits.size):
        value = logits[index]
        if found == count and value <= logits[ids[count - 1]]:
            continue
        place = min(found, count - 1)
        while place > 0 and logits[ids[place - 1]] < value:
            ids[place] = ids[place - 1]
            place -= 1
        ids[place] = index
        found = min(found + 1, count)
    for place in range(count):
        scores[place] = np.float64(logits[ids[place]]) - log_total


@compiled()
def answer(
    logits: Floats,
    seen: NDArray[np.uint8],
    ask: Ask,
    room: Sorting,
    answers: Answers,
    place: int,
) -> None:
    """Write the answer number `place`; see decoder.Answer."""
    answers.token_ids[place] = NOT_FINITE
    if np.isnan(not_finite(logits)):
        return
    target = int(ask.target)
    token_id = target if target != DRAWN else _draw(logits, seen, ask, room)
    log_total, chosen, rank = _log_of_total(logits), logits[token_id], np.int32(1)
    for index in range(logits.size):
        rank += np.int32(logits[index] > chosen)
    answers.token_ids[place] = token_id
    answers.log_probabilities[place] = np.float64(chosen) - log_total
    answers.ranks[place] = rank
    if ask.num_alternatives > 0:
        ids = answers.alternative_ids[place]
        scores = answers.alternative_log_probabilities[place]
        _alternatives(logits, min(ask.num_alternatives, logits.size), log_total, ids, scores)
