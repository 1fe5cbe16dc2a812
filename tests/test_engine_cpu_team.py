"""Threads that compute together: all work, all meet, none waits for one that failed."""

from collections.abc import Callable
from threading import Thread
from threading import enumerate as threading_enumerate

import numpy as np
import pytest
from kernel_entries import kept
from numpy.typing import NDArray

from stentor.engine.cpu.team import Counter, Team, meet

SECONDS = 60.0  # far more than any of this needs
NUM_ROUNDS = 300


@kept
def count_rounds(
    counter: Counter, rounds: NDArray[np.int64], num_early: NDArray[np.int64], thread: int, n: int
) -> None:
    """Count rounds; after each meeting note whether somebody is not that far, or too far."""
    arrivals = 0
    for number in range(NUM_ROUNDS):
        rounds[thread] += 1
        arrivals = meet(counter, arrivals, n)
        for other in range(n):
            if rounds[other] != number + 1:
                num_early[thread] += 1
        arrivals = meet(counter, arrivals, n)


def run(team: Team, work: Callable[[int, int], None], num_threads: int) -> BaseException | None:
    """Run the work and return what was raised; fail instead of hanging."""
    problems: list[BaseException | None] = []

    def try_work() -> None:
        try:
            team.run(work, num_threads)
        except BaseException as problem:  # noqa: BLE001 - given to the test
            problems.append(problem)
        else:
            problems.append(None)

    leader = Thread(target=try_work, daemon=True)
    leader.start()
    leader.join(SECONDS)
    assert problems, "the team hangs"
    return problems[0]


def helpers(name: str) -> list[Thread]:
    """Return the living helpers of a team."""
    return [thread for thread in threading_enumerate() if thread.name.startswith(f"{name} helper")]


def test_the_work_runs_once_on_every_thread_however_many_there_are() -> None:
    team = Team("team-of-many-sizes")
    for num_threads in (1, 3, 1, 2, 4, 3):
        calls: list[tuple[int, int]] = []

        def work(thread: int, n: int, calls: list[tuple[int, int]] = calls) -> None:
            calls.append((thread, n))

        assert run(team, work, num_threads) is None
        assert sorted(calls) == [(thread, num_threads) for thread in range(num_threads)]
    team.close()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_nobody_leaves_a_meeting_before_all_are_there(num_threads: int) -> None:
    team = Team("team-that-meets")
    for _ in range(3):
        rounds, num_early = (np.zeros(num_threads, np.int64) for _ in range(2))

        def work(
            thread: int,
            n: int,
            rounds: NDArray[np.int64] = rounds,
            early: NDArray[np.int64] = num_early,
        ) -> None:
            count_rounds(team.counter, rounds, early, thread, n)

        assert run(team, work, num_threads) is None
        assert rounds.tolist() == [NUM_ROUNDS] * num_threads
        assert not num_early.any()
    team.close()


@pytest.mark.parametrize("at_fault", [0, 1, 2])
def test_one_that_fails_is_waited_for_by_nobody(at_fault: int) -> None:
    """The others would have met it in compiled code, and waited there for ever, at full speed.

    A compiled function may run out of memory, or out of disk when it is compiled.
    """
    team = Team("team-with-a-fault")
    rounds, num_early = np.zeros(3, np.int64), np.zeros(3, np.int64)

    def work(thread: int, num_threads: int) -> None:
        if thread == at_fault:
            raise MemoryError(f"thread {thread}")
        count_rounds(team.counter, rounds, num_early, thread, num_threads)

    problem = run(team, work, 3)
    assert isinstance(problem, MemoryError) and str(problem) == f"thread {at_fault}"
    calls: list[int] = []
    assert run(team, lambda thread, _: calls.append(thread), 3) is None, "and the team goes on"
    assert sorted(calls) == [0, 1, 2]
    rounds[:] = num_early[:] = 0
    assert run(team, lambda t, n: count_rounds(team.counter, rounds, num_early, t, n), 3) is None
    assert not num_early.any(), "and meets as before"
    team.close()


def test_a_team_of_one_raises_what_its_work_raises() -> None:
    team = Team("team-of-one")

    def work(_thread: int, _num_threads: int) -> None:
        raise KeyError("alone")

    assert isinstance(run(team, work, 1), KeyError)
    assert run(team, lambda *_: None, 1) is None


def test_close_ends_the_helpers() -> None:
    team = Team("team-that-closes")
    assert run(team, lambda *_: None, 3) is None
    living = helpers("team-that-closes")
    assert len(living) == 2 and all(thread.daemon for thread in living)
    team.close()
    team.close()
    for thread in living:
        thread.join(SECONDS)
    assert helpers("team-that-closes") == []


def test_a_lone_thread_needs_no_helpers() -> None:
    team = Team("team-without-helpers")
    assert run(team, lambda *_: None, 1) is None
    assert helpers("team-without-helpers") == []
    team.close()
