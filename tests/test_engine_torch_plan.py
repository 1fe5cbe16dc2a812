"""The plan of a step: every token once, in order, in passes that its own position decides."""

import pytest

from stentor.engine.decoder import Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings
from stentor.engine.torch_plan import Limits, Row, count_questions, plan_step

LIMITS = Limits(num_slots=8, context_length=40, vocab_size=100)
SPANS = [4, 8, 40]
DRAW = Draw(SamplingSettings(), 0.5, num_alternatives=2)


def test_a_rows_span_follows_from_its_own_position() -> None:
    """The last position of a span is below it; a pass never mixes spans or exceeds its rows."""
    piece = Piece(1, 2, tuple(range(10, 18)))
    passes = plan_step([piece], LIMITS, SPANS, 3).passes
    assert [(one.span, [row.position for row in one.rows]) for one in passes] == [
        (4, [2, 3]),
        (8, [4, 5, 6]),
        (8, [7]),
        (40, [8, 9]),
    ]
    assert passes[1].rows[0] == Row(token_id=12, slot=1, position=4)


def test_pieces_share_passes_and_keep_the_order_of_each_slot() -> None:
    pieces = [Piece(0, 6, (1, 2, 3)), Piece(5, 0, (4, 5, 6)), Piece(2, 7, (9,))]
    passes = plan_step(pieces, LIMITS, SPANS, 64).passes
    assert [one.span for one in passes] == [4, 8, 40]
    assert [row.token_id for one in passes for row in one.rows] == [4, 5, 6, 1, 2, 9, 3]


def test_questions_name_the_place_of_their_row() -> None:
    """Pieces are asked in their order, though the second is read first."""
    pieces = [
        Piece(0, 3, (1, 2), DRAW),
        Piece(5, 0, (4, 5), Measure((6, 7), num_alternatives=1)),
        Piece(3, 0, (8,)),
    ]
    plan = plan_step(pieces, LIMITS, SPANS, 4)
    rows = [row for one in plan.passes for row in [*one.rows, *[None] * (4 - len(one.rows))]]
    assert [rows[question.place] for question in plan.questions] == [
        Row(2, 0, 4),
        Row(4, 5, 0),
        Row(5, 5, 1),
    ]
    assert [question.row for question in plan.questions] == [
        rows[question.place] for question in plan.questions
    ]
    assert [question.draw for question in plan.questions] == [DRAW, None, None]
    assert [question.target for question in plan.questions] == [0, 6, 7]
    assert [question.num_alternatives for question in plan.questions] == [2, 1, 1]
    assert [count_questions(piece) for piece in pieces] == [1, 2, 0]


@pytest.mark.parametrize(
    "pieces",
    [
        [Piece(0, 0, (1,)), Piece(0, 1, (1,))],
        [Piece(8, 0, (1,))],
        [Piece(-1, 0, (1,))],
        [Piece(0, 39, (1, 1))],
        [Piece(0, 0, ())],
        [Piece(0, 0, (100,))],
        [Piece(0, 0, (-1,))],
        [Piece(0, 0, (1,), Measure((100,)))],
        [Piece(0, 0, (1,), Measure((1, 2)))],
    ],
)
def test_what_would_fault_the_device_is_stopped_before_it(pieces: list[Piece]) -> None:
    """An index out of range on a GPU ends the process' CUDA context: every request with it."""
    with pytest.raises(AssertionError):
        plan_step(pieces, LIMITS, SPANS, 64)
