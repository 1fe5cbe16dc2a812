"""Nothing is kept: after any weather, slots, queue, sessions and threads are as at the start."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from tiny_variants import SECONDS, finished, request, write_endless

from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.room import MAX_WAITING_PER_SESSION
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.engine.threads import ThreadBudget
from stentor.errors import BusyError, OptionError, PromptError
from stentor.loading import Checkpoint, open_checkpoint_folder

NUM_SLOTS = 4
SHORT = SamplingSettings(temperature=1.0, max_new_tokens=4, seed=3)
LONG = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=400)


@pytest.fixture
def endless(tiny_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Return the tiny model without an end-of-text token, so that only limits end a text."""
    return open_checkpoint_folder(write_endless(tiny_model_folder, tmp_path / "endless"))


@pytest.fixture
def engine(endless: Checkpoint) -> Iterator[Engine]:
    """Open an engine; check at the end that it is as it was, and that its threads are gone."""
    num_threads = threading.active_count()
    budget = ThreadBudget(1)
    engine = Engine(endless, precision="int8", threads=budget, num_slots=NUM_SLOTS)
    yield engine
    given_up = time.monotonic() + SECONDS
    while budget._num_busy and time.monotonic() < given_up:
        time.sleep(0.001)  # the worker is on its way from its last step to its rest
    assert budget._num_busy == 0
    assert (engine.num_requests, engine.num_free_slots) == (0, NUM_SLOTS)
    room = engine._room
    assert sorted(room._free_slots) == list(range(NUM_SLOTS)) and not room._active
    assert len(room._queue) == 0 and not room._queue._held and not room._queue._waiting
    engine.close()
    while threading.active_count() > num_threads and time.monotonic() < given_up:
        time.sleep(0.001)  # close() returns with the thread's last act
    assert threading.active_count() == num_threads


def test_after_ordinary_requests(engine: Engine, endless: Checkpoint) -> None:
    for stream in [engine.submit(request(endless, "The", SHORT, f"s {n}")) for n in range(12)]:
        assert finished(stream).num_tokens == 4


def test_after_refusals(engine: Engine, endless: Checkpoint) -> None:
    good = request(endless, "The", SHORT)
    for changes in (
        {"prompt_ids": ()},
        {"prompt_ids": (5,) * 100_000},
        {"settings": SamplingSettings(temperature=float("nan"))},
        {"settings": SamplingSettings(max_new_tokens=10**9)},
        {"settings": SamplingSettings(seed=-1)},
        {"num_alternatives": 99},
        {"deadline_seconds": -1.0},
    ):
        with pytest.raises((PromptError, OptionError)):
            engine.submit(replace(good, **changes))
    assert finished(engine.submit(good)).num_tokens == 4, "and a good one is served"


@pytest.mark.parametrize("text", ["\0\0", "مرحبا بالعالم", "😀👩‍👩‍👧", "\u202eabc", "a\r\n\t"])
def test_after_strange_texts(engine: Engine, endless: Checkpoint, text: str) -> None:
    snapshot = finished(engine.submit(request(endless, text, SHORT)))
    assert snapshot.stop_reason is StopReason.TOKEN_LIMIT


def test_after_a_thousand_requests_of_one_session(engine: Engine, endless: Checkpoint) -> None:
    """What is accepted is answered, what is too much is refused, and others still come in."""
    streams = []
    with engine._room._changed:  # as long as it is held, the worker cannot begin
        for _ in range(1000):
            try:
                streams.append(engine.submit(request(endless, "The", SHORT, "flood")))
            except BusyError:
                continue
        other = engine.submit(request(endless, "The", SHORT, "somebody else"))
        assert other.snapshot().queue_position == 2
    assert len(streams) == MAX_WAITING_PER_SESSION
    assert len({finished(stream).text for stream in (*streams, other)}) == 1


def test_after_cancels_and_deadlines(engine: Engine, endless: Checkpoint) -> None:
    streams = [engine.submit(request(endless, "The", LONG, f"s {n % 3}")) for n in range(9)]
    hurried = replace(request(endless, "The", LONG, "late"), deadline_seconds=0.001)
    late = [engine.submit(hurried) for _ in range(3)]
    for stream in streams:
        stream.cancel()
    for stream in streams:
        assert finished(stream).stop_reason in (StopReason.STOPPED, StopReason.TOKEN_LIMIT)
    for stream in late:
        assert finished(stream).stop_reason in (StopReason.DEADLINE, StopReason.TOKEN_LIMIT)


def test_after_all_weathers_at_once(engine: Engine, endless: Checkpoint) -> None:
    """Six visitors submit, measure, stop and leave at random; nobody hangs, nothing is kept."""
    expected = finished(engine.submit(request(endless, "The", SHORT))).text
    texts: list[str] = []

    def visit(number: int) -> None:
        chance = random.Random(number)
        streams: list[Stream] = []
        for _ in range(30):
            kind = chance.randrange(5)
            session = f"session {chance.randrange(3)}"
            if kind == 0:
                texts.append(finished(engine.submit(request(endless, "The", SHORT, session))).text)
            elif kind == 1:
                assert len(engine.score((5,) * chance.randint(2, 200), session=session)) > 0
            elif kind == 2 and streams:
                chance.choice(streams).cancel()
            else:
                hurried = kind == 3 and chance.random() < 0.5
                streams.append(
                    engine.submit(
                        GenerationRequest(
                            (7,) * chance.randint(1, 300),
                            LONG,
                            session,
                            deadline_seconds=0.002 if hurried else None,
                        )
                    )
                )
        for stream in streams:
            stream.cancel()
            finished(stream)

    visitors = [Thread(target=visit, args=(number,)) for number in range(6)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(SECONDS)
    assert not any(visitor.is_alive() for visitor in visitors)
    assert texts and set(texts) == {expected}
