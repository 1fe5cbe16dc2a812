"""Requests: what is refused before it costs anything, and which pieces a job asks to read."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from stentor.engine.decoder import NOT_FINITE, Answer, Draw, Measure
from stentor.engine.requests import (
    MAX_FIRST_INDEX,
    GenerationJob,
    GenerationRequest,
    ScoreJob,
    check_request,
    check_score,
)
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.stream import StopReason
from stentor.errors import ModelError, OptionError, PromptError
from stentor.loading import Checkpoint, open_checkpoint_folder

CONTEXT, VOCABULARY = 64, 320
REQUEST = GenerationRequest((1, 2, 3), SamplingSettings(max_new_tokens=5, seed=9), "a")


@pytest.fixture
def checkpoint(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


def answer(token_id: int) -> Answer:
    return Answer(token_id, -1.0, 1)


@pytest.mark.parametrize("prompt_ids", [(), (1,) * CONTEXT, (-1,), (VOCABULARY,), (2**70,)])
def test_prompts_that_cannot_be_read_are_refused(prompt_ids: tuple[int, ...]) -> None:
    with pytest.raises(PromptError):
        check_request(replace(REQUEST, prompt_ids=prompt_ids), VOCABULARY, CONTEXT)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_alternatives": 11},
        {"num_alternatives": -1},
        {"num_alternatives": 2.5},
        {"deadline_seconds": 0.0},
        {"deadline_seconds": -3.0},
        {"deadline_seconds": math.nan},
        {"deadline_seconds": math.inf},
        {"first_index": -1},
        {"first_index": MAX_FIRST_INDEX + 1},
        {"settings": SamplingSettings(temperature=math.nan)},
        {"settings": SamplingSettings(max_new_tokens=0)},
        {"settings": SamplingSettings(max_new_tokens=10**9)},
        {"settings": SamplingSettings(seed=-1)},
        {"settings": SamplingSettings(min_p=1.5)},
        {"settings": SamplingSettings(top_p=0.0)},
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, object]) -> None:
    request = replace(REQUEST, **changes)  # type: ignore[arg-type] # wrong types are the point
    with pytest.raises(OptionError):
        check_request(request, VOCABULARY, CONTEXT)


def test_the_limits_themselves_are_allowed() -> None:
    check_request(
        replace(
            REQUEST,
            prompt_ids=(VOCABULARY - 1,) * (CONTEXT - 1),
            num_alternatives=10,
            deadline_seconds=0.001,
            first_index=MAX_FIRST_INDEX,
        ),
        VOCABULARY,
        CONTEXT,
    )
    check_score((0,) * CONTEXT, 10, VOCABULARY, CONTEXT)


@pytest.mark.parametrize("token_ids", [(), (1,), (1,) * (CONTEXT + 1), (1, -1), (1, VOCABULARY)])
def test_texts_that_cannot_be_measured_are_refused(token_ids: tuple[int, ...]) -> None:
    with pytest.raises(PromptError):
        check_score(token_ids, 0, VOCABULARY, CONTEXT)


def test_a_prompt_is_read_in_pieces_and_asks_at_its_end(checkpoint: Checkpoint) -> None:
    request = replace(REQUEST, prompt_ids=tuple(range(1, 11)), num_alternatives=4, first_index=7)
    job = GenerationJob(request, checkpoint, CONTEXT)
    job.slot = 3
    piece = job.next_piece(8)
    assert (piece.slot, piece.start, piece.token_ids) == (3, 0, tuple(range(1, 9)))
    assert piece.ask is None and job.receive(piece, ()) is None
    piece = job.next_piece(8)
    assert (piece.start, piece.token_ids) == (8, (9, 10))
    assert piece.ask == Draw(request.settings, uniform(9, 7), 4)
    assert job.receive(piece, (answer(50),)) is None
    piece = job.next_piece(1)
    assert (piece.start, piece.token_ids, job.num_unread) == (10, (50,), 1)
    assert piece.ask == Draw(request.settings, uniform(9, 8), 4)


def test_a_piece_that_ends_with_the_prompt_asks(checkpoint: Checkpoint) -> None:
    job = GenerationJob(replace(REQUEST, prompt_ids=(1,) * 8), checkpoint, CONTEXT)
    assert isinstance(job.next_piece(8).ask, Draw)


@pytest.mark.parametrize(
    ("prompt_length", "max_new_tokens", "reason"),
    [
        (3, 5, StopReason.TOKEN_LIMIT),
        (CONTEXT - 2, 5, StopReason.CONTEXT_FULL),
        (CONTEXT - 5, 5, StopReason.TOKEN_LIMIT),
    ],
)
def test_why_a_text_ends(
    checkpoint: Checkpoint, prompt_length: int, max_new_tokens: int, reason: StopReason
) -> None:
    settings = SamplingSettings(max_new_tokens=max_new_tokens)
    request = replace(REQUEST, prompt_ids=(1,) * prompt_length, settings=settings)
    job = GenerationJob(request, checkpoint, CONTEXT)
    ended = None
    while ended is None:
        piece = job.next_piece(CONTEXT)
        ended = job.receive(piece, (answer(50),))
    assert ended is reason
    assert len(job.stream.tokens) == min(max_new_tokens, CONTEXT - prompt_length)


def test_an_end_token_ends_a_text_and_is_no_part_of_it(checkpoint: Checkpoint) -> None:
    assert 0 in checkpoint.end_tokens
    job = GenerationJob(REQUEST, checkpoint, CONTEXT)
    assert job.receive(job.next_piece(8), (answer(0),)) is StopReason.END_OF_TEXT
    assert job.stream.tokens == ()


def test_logits_that_are_no_numbers_are_named_not_recorded(checkpoint: Checkpoint) -> None:
    for job in (
        GenerationJob(REQUEST, checkpoint, CONTEXT),
        ScoreJob((1, 2, 3), checkpoint, "a", 0),
    ):
        with pytest.raises(ModelError, match="NaN or infinite"):
            job.receive(job.next_piece(8), (answer(NOT_FINITE),))
        assert job.stream.tokens == ()


def test_a_text_is_measured_in_pieces_without_its_last_token(checkpoint: Checkpoint) -> None:
    job = ScoreJob((5, 6, 7, 8, 9), checkpoint, "a", 2)
    piece = job.next_piece(3)
    assert (piece.start, piece.token_ids) == (0, (5, 6, 7))
    assert piece.ask == Measure((6, 7, 8), 2)
    assert job.receive(piece, tuple(answer(token_id) for token_id in (6, 7, 8))) is None
    piece = job.next_piece(3)
    assert (piece.start, piece.token_ids, piece.ask) == (3, (8,), Measure((9,), 2))
    assert job.receive(piece, (answer(9),)) is StopReason.TOKEN_LIMIT
    assert [record.token_id for record in job.stream.tokens] == [6, 7, 8, 9]
