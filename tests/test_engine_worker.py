"""The worker, step by step: who is read in which step, and what a stop frees."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tiny_variants import finished, request, write_endless
from watched_decoder import WatchedDecoder

from stentor.engine.decoder import Piece
from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.scheduler import PIECE_TOKENS, PROMPT_TOKENS_PER_STEP
from stentor.engine.stream import StopReason
from stentor.engine.threads import ThreadBudget
from stentor.loading import Checkpoint, open_checkpoint_folder

LONG = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=400)


@pytest.fixture
def endless(tiny_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Return the tiny model without an end-of-text token, so that only limits end a text."""
    return open_checkpoint_folder(write_endless(tiny_model_folder, tmp_path / "endless"))


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Engine]]:
    """Return a function that opens int8 engines of one thread, which are closed at the end."""
    engines: list[Engine] = []

    def start(checkpoint: Checkpoint, num_slots: int = 32) -> Engine:
        engines.append(
            Engine(checkpoint, precision="int8", threads=ThreadBudget(1), num_slots=num_slots)
        )
        return engines[-1]

    yield start
    for engine in engines:
        if isinstance(engine._worker._decoder, WatchedDecoder):
            engine._worker._decoder.release()
        engine.close()


OpenEngine = Callable[..., Engine]


def limited(num_tokens: int, seed: int = 0) -> SamplingSettings:
    return SamplingSettings(temperature=1.0, max_new_tokens=num_tokens, seed=seed)


def slots(pieces: Sequence[Piece]) -> set[int]:
    return {piece.slot for piece in pieces}


def test_requests_join_and_leave_between_steps(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    engine = open_engine(endless)
    watched = WatchedDecoder(engine, is_held=True)
    first = engine.submit(request(endless, "The", limited(5), "a"))
    watched.advance(2)
    second = engine.submit(request(endless, "A", limited(6), "b"))
    watched.advance(6)
    assert (first.snapshot().num_tokens, second.snapshot().num_tokens) == (5, 5)
    assert [len(pieces) for pieces in watched.steps] == [1, 1, 1, 2, 2, 1, 1, 1]
    watched.advance()
    assert second.is_done and engine.num_free_slots == engine.num_slots
    assert len({slot for pieces in watched.steps for slot in slots(pieces)}) == 2


def test_a_long_prompt_holds_up_nobodys_stream(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    """Counted in steps: everyone who generates gets a token in each, however much is read."""
    engine = open_engine(endless)
    watched = WatchedDecoder(engine, is_held=True)
    streams = [engine.submit(request(endless, "The", LONG, f"s {n}")) for n in range(3)]
    watched.advance(4)
    before = [stream.snapshot().num_tokens for stream in streams]
    readers = [
        engine.submit(GenerationRequest((5,) * 400, LONG, f"reader {number}"))
        for number in range(3)
    ]
    num_steps = 0
    while any(reader.snapshot().num_tokens == 0 for reader in readers):
        watched.advance()
        num_steps += 1
        read = [piece for piece in watched.steps[-1] if len(piece.token_ids) > 1]
        assert sum(len(piece.token_ids) for piece in read) <= PROMPT_TOKENS_PER_STEP
        assert all(len(piece.token_ids) <= PIECE_TOKENS for piece in read)
        tokens = [stream.snapshot().num_tokens for stream in streams]
        assert tokens == [count + num_steps for count in before]
    assert num_steps <= -(-3 * 400 // PIECE_TOKENS) + 1


def test_everyone_who_comes_at_once_is_served_at_once(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    """Thirty prompts of twelve tokens are read in three steps; nobody waits for an end."""
    engine = open_engine(endless)
    watched = WatchedDecoder(engine, is_held=True)
    with engine._room._changed:  # as long as it is held, the worker cannot begin
        streams = [
            engine.submit(GenerationRequest((7,) * 12, LONG, f"student {number}"))
            for number in range(30)
        ]
    watched.advance(3)
    assert all(stream.snapshot().num_tokens >= 1 for stream in streams)


def test_twenty_prompts_of_one_session_do_not_starve_another(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    engine = open_engine(endless, num_slots=8)
    watched = WatchedDecoder(engine, is_held=True)
    with engine._room._changed:
        greedy = [engine.submit(request(endless, "The", LONG, "greedy")) for _ in range(20)]
    watched.advance(2)
    assert engine.num_free_slots == 4, "it leaves as many slots free as it holds"
    newcomers = [engine.submit(request(endless, "A", LONG, f"n {n}")) for n in range(4)]
    watched.advance(2)
    assert all(stream.snapshot().num_tokens >= 1 for stream in newcomers)
    assert not any(stream.is_done for stream in greedy)


@pytest.mark.parametrize("ended_by", ["cancel", "deadline"])
def test_a_stop_frees_the_slot_before_the_next_token(
    endless: Checkpoint, open_engine: OpenEngine, ended_by: str
) -> None:
    engine = open_engine(endless, num_slots=1)
    watched = WatchedDecoder(engine, is_held=True)
    ids = request(endless, "The", LONG).prompt_ids
    stopped = engine.submit(GenerationRequest(ids, LONG, "a", deadline_seconds=60.0))
    waiting = engine.submit(request(endless, "A", limited(3), "b"))
    watched.advance(2)
    if ended_by == "cancel":
        stopped.cancel()  # in the middle of the third step: its token is not delivered
        expected = (2, StopReason.STOPPED)
    else:
        engine._room._active[0].deadline = 0.0  # the third step has begun: its token is
        expected = (3, StopReason.DEADLINE)
    watched.advance()
    snapshot = stopped.snapshot()
    assert (snapshot.num_tokens, snapshot.stop_reason) == expected
    watched.advance()
    assert waiting.snapshot().num_tokens == 1, "the freed slot serves the next in line"


def test_settings_and_tokens_of_the_slots_last_owner_are_forgotten(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    """The repetition penalty counts this request's own tokens, not those of the one before."""
    penalised = SamplingSettings(temperature=0.0, repetition_penalty=2.0, max_new_tokens=30)
    fresh = open_engine(endless, num_slots=1)
    expected = finished(fresh.submit(request(endless, "The", penalised))).token_ids
    used = open_engine(endless, num_slots=1)
    for seed in range(3):
        wild = SamplingSettings(2.0, 1.0, repetition_penalty=1.9, max_new_tokens=200, seed=seed)
        finished(used.submit(request(endless, "A small lamp", wild)))
    assert finished(used.submit(request(endless, "The", penalised))).token_ids == expected
