"""The room: places in line, expected waits, floods, and those who leave before their turn."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stentor.engine.requests import GenerationJob, GenerationRequest
from stentor.engine.room import MAX_WAITING, MAX_WAITING_PER_SESSION, Room
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason
from stentor.errors import BusyError, ModelError
from stentor.loading import open_checkpoint_folder

MakeJob = Callable[..., GenerationJob]


@pytest.fixture
def job(tiny_model_folder: Path) -> MakeJob:
    checkpoint = open_checkpoint_folder(tiny_model_folder)

    def make(session: str = "a", deadline_seconds: float | None = None) -> GenerationJob:
        request = GenerationRequest(
            (1, 2), SamplingSettings(), session, deadline_seconds=deadline_seconds
        )
        return GenerationJob(request, checkpoint, 512)

    return make


def add(room: Room, *jobs: GenerationJob) -> None:
    for job in jobs:
        room.add(job)


def positions(*jobs: GenerationJob) -> list[int]:
    return [job.stream.snapshot().queue_position for job in jobs]


def test_a_request_knows_its_place_until_it_has_a_slot(job: MakeJob) -> None:
    room, jobs = Room(1), [job() for _ in range(3)]
    add(room, *jobs)
    assert positions(*jobs) == [1, 2, 3]
    assert room.next_turn() == jobs[:1]
    assert positions(*jobs) == [0, 1, 2]
    newcomer = job("b")
    room.add(newcomer)
    assert positions(*jobs, newcomer) == [0, 2, 3, 1], "b holds no slot, a holds one"
    room.leave(jobs[0], StopReason.TOKEN_LIMIT)
    assert room.next_turn() == [newcomer]
    assert positions(*jobs, newcomer) == [0, 1, 2, 0]


def test_the_expected_wait_is_measured_not_guessed(job: MakeJob) -> None:
    room, jobs = Room(1), [job() for _ in range(4)]
    add(room, *jobs)
    room.next_turn()
    assert [item.stream.snapshot().expected_wait_seconds for item in jobs] == [None] * 4
    time.sleep(0.02)
    room.leave(jobs[0], StopReason.TOKEN_LIMIT)
    room.next_turn()
    took = room._recent_seconds[0]
    assert took >= 0.02
    waits = [item.stream.snapshot().expected_wait_seconds for item in jobs]
    assert waits == [None, None, took, 2 * took]


def test_more_slots_shorten_the_expected_wait(job: MakeJob) -> None:
    room, jobs = Room(2), [job(f"session {number}") for number in range(4)]
    add(room, *jobs)
    room.next_turn()
    room._recent_seconds.append(3.0)
    room.add(job("late"))
    assert jobs[3].stream.snapshot().expected_wait_seconds == 2 * 3.0 / 2


def test_a_thousand_requests_of_one_session_are_a_clear_refusal(job: MakeJob) -> None:
    room, item = Room(4), job()
    num_refused = 0
    for _ in range(1000):
        try:
            room.add(item if num_refused else job())
        except BusyError as error:
            num_refused += 1
            assert "64 of your requests are waiting already" in str(error)
            assert "Try again in about 60 s" in str(error)
    assert num_refused == 1000 - MAX_WAITING_PER_SESSION
    room.add(job("somebody else"))
    assert room.num_requests == MAX_WAITING_PER_SESSION + 1


def test_a_full_waiting_room_says_when_to_come_again(job: MakeJob) -> None:
    room = Room(1)
    add(room, *(job(f"session {number}") for number in range(MAX_WAITING)))
    with pytest.raises(BusyError, match=f"{MAX_WAITING} requests are waiting already"):
        room.add(job("one more"))
    room.next_turn()
    room._recent_seconds.append(0.5)
    room.add(job("took the free place"))
    with pytest.raises(BusyError, match="in about 128 s"):
        room.add(job("one more"))


def test_a_cancelled_request_leaves_the_queue_at_once(job: MakeJob) -> None:
    room, jobs = Room(1), [job() for _ in range(4)]
    add(room, *jobs)
    room.next_turn()
    jobs[2].stream.cancel()
    assert jobs[2].stream.snapshot().stop_reason is StopReason.STOPPED, "no worker was needed"
    assert positions(jobs[1], jobs[3]) == [1, 2]
    jobs[0].stream.cancel()
    assert not jobs[0].stream.is_done, "the worker ends it: it may be in the middle of a step"
    assert room.next_turn() == [jobs[1]]
    assert jobs[0].stream.snapshot().stop_reason is StopReason.STOPPED


def test_a_deadline_ends_a_request_with_or_without_a_slot(job: MakeJob) -> None:
    room = Room(1)
    served, waiting, patient = job("a", 0.01), job("b", 0.01), job("c", 60.0)
    add(room, served, waiting, patient)
    assert room.next_turn() == [served]
    time.sleep(0.02)
    assert room.next_turn() == [patient], "in the same moment, before the next token"
    for item in (served, waiting):
        assert item.stream.snapshot().stop_reason is StopReason.DEADLINE
    assert room.num_requests == 1


def test_a_closed_room_sends_everybody_home(job: MakeJob) -> None:
    room, jobs = Room(1), [job() for _ in range(3)]
    add(room, *jobs)
    room.next_turn()
    room.close()
    assert [item.stream.is_done for item in jobs] == [False, True, True]
    assert not room.wait_for_work() and room.next_turn() == []
    with pytest.raises(ModelError, match="closed"):
        room.add(job())
    room.end_active()
    assert {item.stream.snapshot().stop_reason for item in jobs} == {StopReason.STOPPED}
    assert (room.num_requests, room.num_free_slots) == (0, 1)


def test_a_failure_ends_those_with_a_slot_or_else_those_who_wait(job: MakeJob) -> None:
    """Were the waiting kept when nobody has a slot, the worker would fail for ever."""
    room, jobs = Room(1), [job() for _ in range(2)]
    add(room, *jobs)
    room.next_turn()
    assert room.fail_active("why") == 1
    assert jobs[0].stream.snapshot().error == "why" and not jobs[1].stream.is_done
    assert room.fail_active("why") == 1
    assert jobs[1].stream.snapshot().stop_reason is StopReason.FAILED
    assert room.fail_active("why") == 0
