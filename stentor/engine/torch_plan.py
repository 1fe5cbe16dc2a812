"""What a step does, as plain Python: which tokens are read in which pass, what is asked after them.

A row's span follows from its own position alone, and rows of shorter spans are read first, so the
tokens of a slot are read in their order. Knows no tensors.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from stentor.engine.decoder import Draw, Measure, Piece


class Limits(NamedTuple):
    """What a decoder holds; anything beyond would fault the device for every request on it."""

    num_slots: int
    context_length: int
    vocab_size: int


class Row(NamedTuple):
    """One token to read."""

    token_id: int
    slot: int
    position: int


class Pass(NamedTuple):
    """Rows read at once, and the positions they attend over."""

    span: int
    rows: list[Row]


class Question(NamedTuple):
    """Something asked after a row: what `draw` chooses, or else how likely `target` was."""

    place: int  # of the row among the rows of all passes, each padded to its full size
    row: Row
    draw: Draw | None
    target: int
    num_alternatives: int


class Plan(NamedTuple):
    """One step. `questions` are in the order of the pieces."""

    passes: list[Pass]
    questions: list[Question]


def plan_step(
    pieces: Sequence[Piece], limits: Limits, spans: Sequence[int], pass_rows: int
) -> Plan:
    """Return the passes that read `pieces`, of at most `pass_rows` rows each, and the questions.

    `spans` are the allowed spans, rising; the last holds every position.
    """
    rows = _list_rows(pieces, limits)
    numbers = sorted(
        range(len(rows)), key=lambda number: bisect_right(spans, rows[number].position)
    )
    passes: list[Pass] = []
    places = [0] * len(rows)
    for number in numbers:
        span = spans[bisect_right(spans, rows[number].position)]
        if not passes or passes[-1].span != span or len(passes[-1].rows) == pass_rows:
            passes.append(Pass(span, []))
        places[number] = (len(passes) - 1) * pass_rows + len(passes[-1].rows)
        passes[-1].rows.append(rows[number])
    return Plan(passes, _list_questions(pieces, rows, places, limits))


def _list_rows(pieces: Sequence[Piece], limits: Limits) -> list[Row]:
    slots = [piece.slot for piece in pieces]
    assert len(set(slots)) == len(slots), "two pieces for one slot"
    rows = []
    for piece in pieces:
        end = piece.start + len(piece.token_ids)
        assert 0 <= piece.slot < limits.num_slots, f"no slot {piece.slot}"
        assert 0 <= piece.start < end <= limits.context_length, f"no positions up to {end}"
        assert 0 <= min(piece.token_ids) <= max(piece.token_ids) < limits.vocab_size
        for position, token_id in enumerate(piece.token_ids, start=piece.start):
            rows.append(Row(token_id, piece.slot, position))
    return rows


def _list_questions(
    pieces: Sequence[Piece], rows: list[Row], places: list[int], limits: Limits
) -> list[Question]:
    questions = []
    end = 0
    for piece in pieces:
        start, end = end, end + len(piece.token_ids)
        ask = piece.ask
        if isinstance(ask, Draw):
            last = end - 1
            questions.append(Question(places[last], rows[last], ask, 0, ask.num_alternatives))
        elif isinstance(ask, Measure):
            assert len(ask.targets) == end - start, "a target for each token"
            assert all(0 <= target < limits.vocab_size for target in ask.targets)
            for number, target in enumerate(ask.targets, start=start):
                questions.append(
                    Question(places[number], rows[number], None, target, ask.num_alternatives)
                )
    return questions


def count_questions(piece: Piece) -> int:
    """Return how many questions a piece asks."""
    if isinstance(piece.ask, Measure):
        return len(piece.ask.targets)
    return 0 if piece.ask is None else 1
