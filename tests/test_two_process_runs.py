"""Whole runs of two real processes: each can be killed or stopped at any level, and goes on.

The run of this file is made once. It becomes a launcher, loses a worker, is resumed, loses its
launcher, is resumed, is told to end, is resumed, and ends. That two processes give the losses of
one is told in test_two_processes.py.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from tiny_recipe import (
    CHECKPOINT_EVERY,
    NUM_STEPS,
    PATIENCE_SECONDS,
    create,
    metrics,
    run_to_its_end,
    tiny_recipe,
    wait_for_step,
)

from stentor import jobs
from stentor.runs import Run, Status, current_status, process_start, read_events, tail_log


@dataclass(frozen=True)
class Story:
    """The run, what was found after each interruption, and the workers that were seen."""

    run: Run
    found: tuple[Status, ...]
    workers: tuple[tuple[int, ...], ...]


@pytest.fixture(scope="module")
def story(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.delenv("SPACE_ID", raising=False)
        recipe = tiny_recipe(tiny_model_folder)
        recipe = replace(recipe, stages=recipe.stages[:2])
        run = create(replace(recipe, num_processes=2))
        yield Story(run, *_break(run))


def _break(run: Run) -> tuple[tuple[Status, ...], tuple[tuple[int, ...], ...]]:
    """Interrupt the run on three levels and let it end."""
    found: list[Status] = []
    seen: list[tuple[int, ...]] = []
    for step, how in ((CHECKPOINT_EVERY + 1, "worker"), (6, "launcher"), (7, "asked")):
        offset = run.events_file.stat().st_size if run.events_file.exists() else 0
        jobs.start(run, "resume" if found else "run")
        wait_for_step(run, "general", step, offset)
        launcher = current_status(run).pid
        assert launcher is not None
        workers = tuple(child.pid for child in psutil.Process(launcher).children())
        if how == "worker":
            os.kill(workers[1], signal.SIGKILL)
        elif how == "launcher":
            os.kill(launcher, signal.SIGKILL)
        else:
            assert jobs.terminate(run, PATIENCE_SECONDS)
        assert jobs.wait_until_ended(run, PATIENCE_SECONDS), tail_log(run)
        _wait_until_gone(workers)
        found.append(current_status(run))
        seen.append(workers)
    assert run_to_its_end(run, "resume") == "finished", tail_log(run)
    return tuple(found), tuple(seen)


def _wait_until_gone(pids: tuple[int, ...]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(process_start(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker went on alone"
        time.sleep(0.01)


def test_the_run_becomes_the_launcher_of_two_workers(story: Story) -> None:
    """Its pid and start time stay, so that the status is true and stopping works."""
    assert [len(workers) for workers in story.workers] == [2, 2, 2]
    machines = [event for event in read_events(story.run) if event["kind"] == "machine"]
    assert [event["num_workers"] for event in machines] == [2, 2, 2, 2]
    assert "Starting 2 processes that train together." in tail_log(story.run, 1_000_000)


def test_a_killed_worker_fails_the_run_and_says_so(story: Story) -> None:
    """The other once waited for it in a collective, for as long as the timeout."""
    status = story.found[0]
    assert status.state == "failed"
    assert str(status.error).startswith("Another of the processes that train this run has ended")
    assert "Resume goes on from the newest checkpoint" in str(status.error)
    assert status.checkpoint == f"general-{CHECKPOINT_EVERY:06d}"


def test_a_killed_worker_is_an_alarm_until_steps_go_on(story: Story) -> None:
    """Raised once, with what the other end noticed; cleared by the first step after the resume."""
    alarms = [event for event in read_events(story.run) if event["kind"] == "alarm"]
    dead = [event for event in alarms if event["alarm"] == "dead_worker"]
    assert [event["state"] for event in dead] == ["raised", "cleared"]
    assert dead[0]["message"].startswith("One of the 2 processes that train this run has ended")
    assert dead[1]["message"] == "All workers train general again."
    assert {event["alarm"] for event in alarms} <= {"dead_worker", "disk_low"}


def test_a_killed_launcher_takes_its_workers_along(story: Story) -> None:
    assert story.found[1].state == "died"


def test_ending_a_run_lets_both_workers_save(story: Story) -> None:
    status = story.found[2]
    assert (status.state, status.error) == ("stopped", None)
    assert status.checkpoint == f"general-{status.step:06d}"
    assert 7 <= status.step < NUM_STEPS


def test_the_main_worker_alone_writes(story: Story) -> None:
    """Two recorders once gave each loss twice."""
    resumed = [event for event in read_events(story.run) if event["kind"] == "resumed"]
    assert len(resumed) == 3
    events = [event for event in read_events(story.run) if event["kind"] == "metrics"]
    steps = Counter(event["step"] for event in events)
    assert set(steps) == set(range(1, NUM_STEPS + 1))
    assert steps[1] == 1 and max(steps.values()) <= 3, "a step is repeated only after a kill"
    assert steps[NUM_STEPS] == 1
    finished = [
        event["stage"] for event in read_events(story.run) if event["kind"] == "stage_finished"
    ]
    assert finished == ["expand", "general"]


def test_steps_that_are_repeated_repeat_their_numbers(story: Story) -> None:
    """The sum of two workers' gradients has one order, so even their bits are the same."""
    expected = metrics(story.run)
    for event in read_events(story.run):
        if event["kind"] == "metrics":
            assert event["loss"] == expected["general", event["step"]][0], event
    losses = [expected["general", step][0] for step in range(1, NUM_STEPS + 1)]
    assert losses[-1] < losses[0] - 1


def test_the_log_holds_no_traceback_of_a_launcher_that_was_told_to_end(story: Story) -> None:
    assert "SignalException" not in tail_log(story.run, 1_000_000)
