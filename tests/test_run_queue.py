"""The line of runs: order, devices, and that it goes on by itself, with real processes.

Most children here only sleep: what a run does is told in test_runner.py. One story is real.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import PATIENCE_SECONDS, create, tiny_recipe

from stentor import jobs
from stentor.errors import RunError
from stentor.notify import Notifier
from stentor.run_queue import enqueue, move, queued_runs, remove, rivals_before, start_next
from stentor.run_watch import RunWatch
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    process_start,
    read_status,
    tail_log,
    write_status,
)
from training.execution import close, hand_on

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every run started by this process sleep, and end them all afterwards."""
    monkeypatch.setattr(jobs, "command_for", lambda run, verb: SLEEP)
    yield
    for run in jobs.active_runs():
        kill(run)


def run_on(devices: str = "", name: str = "run") -> Run:
    return create_run({"devices": devices}, name)


def kill(run: Run) -> None:
    pid = read_status(run).pid
    assert pid is not None and pid != os.getpid()
    os.kill(pid, signal.SIGKILL)
    assert jobs.wait_until_ended(run, PATIENCE_SECONDS)


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def state(run: Run) -> str:
    return current_status(run).state


def test_the_line_goes_on_by_itself_with_no_app_there(tiny_model_folder: Path) -> None:
    """Three real runs: the first fails, for its GPU is not there, and each starts the next."""
    recipe = tiny_recipe(tiny_model_folder)
    recipe = replace(recipe, stages=recipe.stages[:1])  # grow only: seconds
    lost, second, third = (
        create(each) for each in (replace(recipe, devices="63"), recipe, replace(recipe, seed=6))
    )
    for run in (lost, second, third):
        enqueue(run)
    assert start_next() == [lost], "the others use every device, so its as well"
    wait_for(lambda: state(third) not in ("queued", "starting", "running"))
    status = current_status(lost)
    assert status.state == "failed"
    assert "is to train on GPU 63, and of these this machine has 0" in str(status.error)
    assert f"Started the next run in line: {second.id}" in tail_log(lost)
    assert (state(second), state(third)) == ("finished", "finished"), tail_log(second)
    assert f"Started the next run in line: {third.id}" in tail_log(second)
    assert queued_runs() == []


@pytest.mark.usefixtures("sleepers")
def test_a_killed_run_is_followed_by_the_next_while_the_app_is_open() -> None:
    """`kill -9` leaves nobody to start the next one: the app does, and tells of the death once."""
    first, second = run_on(), run_on()
    told: list[dict[str, Any]] = []

    class Webhook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *values: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    watch = RunWatch(Notifier(f"http://127.0.0.1:{server.server_port}/", print), seconds=0.01)
    for run in (first, second):
        enqueue(run)
    watch.start()
    wait_for(lambda: state(first) == "starting")
    assert state(second) == "queued"
    watch.look()  # it has seen the first one going
    kill(first)
    wait_for(lambda: state(second) == "starting" and bool(told))
    watch.close()
    watch.look()
    server.shutdown()
    server.server_close()
    (message,) = told
    assert (message["run"], message["alarm"], message["state"]) == (first.id, "end", "died")
    assert message["message"] == "Died before its first stage: the process ended without a word."
    assert state(first) == "died", "the watch writes nothing"


def test_an_old_death_is_no_news(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_on()
    mine = Status("running", os.getpid(), process_start(os.getpid()))
    write_status(run, replace(mine, process_start="1"))
    watch = RunWatch(Notifier(None, print))
    watch.look()
    assert capsys.readouterr().err == ""
    write_status(run, mine)
    watch.look()
    write_status(run, replace(mine, process_start="1"))
    for _ in range(3):
        watch.look()
    error = "Died before its first stage: the process ended without a word."
    assert capsys.readouterr().err == f"Run {run.id}: {error}\n", "once"


def test_a_watch_that_cannot_write_says_so_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[int] = []

    def fail() -> list[Run]:
        looks.append(1)
        raise RunError("No room.")

    monkeypatch.setattr("stentor.run_watch.start_next", fail)
    watch = RunWatch(Notifier(None, print), seconds=0.001)
    watch.start()
    wait_for(lambda: len(looks) > 3)
    watch.close()
    assert capsys.readouterr().err.count("The line of runs waits: No room.") == 1


@pytest.mark.usefixtures("sleepers")
def test_runs_on_other_devices_go_at_once_and_keep_their_order() -> None:
    zero, also_zero, both, one = (run_on(devices) for devices in ("0", "0", "0,1", "1"))
    for run in (zero, also_zero, both, one):
        enqueue(run)
    assert queued_runs() == [zero, also_zero, both, one]
    assert rivals_before(one) == [both], "what uses GPU 0 alone is not in its way"
    # GPU 1 is free, and kept for the run that waits for both: else it might wait for ever.
    assert start_next() == [zero]
    assert start_next() == [], "called twice, nothing more"
    remove(both)
    assert start_next() == [one]
    assert {run.id for run in jobs.active_runs()} == {zero.id, one.id}
    assert [state(run) for run in (zero, also_zero, both, one)] == [
        "starting",
        "queued",
        "created",
        "starting",
    ]
    kill(zero)
    assert start_next() == [also_zero]
    assert read_status(also_zero).queue_place == 0.0


def test_moving_counts_among_the_runs_that_share_a_device() -> None:
    """A press of `up` that passed a run on another GPU once changed nothing that anyone saw."""
    first, other, second, third = (run_on(devices) for devices in ("0", "1", "0", "0"))
    for run in (first, other, second, third):
        enqueue(run)
    move(second, -1)
    assert queued_runs() == [second, first, other, third]
    move(second, 1)
    assert [run for run in queued_runs() if run != other] == [first, second, third]
    move(first, 99)
    assert [run for run in queued_runs() if run != other] == [second, third, first]
    before = queued_runs()
    move(first, 1)
    move(other, -1)
    assert queued_runs() == before, "at the end already; alone on its GPU"
    remove(third)
    with pytest.raises(RunError, match="is not in line"):
        move(third, 1)
    with pytest.raises(RunError, match="is not in line"):
        remove(third)


def test_a_run_that_was_going_waits_with_all_that_it_has_done() -> None:
    run = run_on()
    append_event(run, "metrics", stage="general", step=6)
    write_status(run, Status("stopped", stage="general", step=6, checkpoint="general-000006"))
    enqueue(run)
    status = current_status(run)
    assert (status.state, status.step, status.checkpoint) == ("queued", 6, "general-000006")
    with pytest.raises(RunError, match="in line already"):
        enqueue(run)
    remove(run)
    assert state(run) == "stopped"
    for over, words in (("finished", "finished"), ("starting", "still going")):
        write_status(run, Status(over, heartbeat=time.time()))
        with pytest.raises(RunError, match=words):
            enqueue(run)


def test_what_cannot_be_started_fails_and_the_line_goes_on(
    monkeypatch: pytest.MonkeyPatch, sleepers: None
) -> None:
    broken, good = run_on(), run_on()
    commands = {broken.id: ["/nowhere/python"], good.id: SLEEP}
    monkeypatch.setattr(jobs, "command_for", lambda run, verb: commands[run.id])
    for run in (broken, good):
        enqueue(run)
    assert start_next() == [good]
    status = current_status(broken)
    assert status.state == "failed" and "cannot be started" in str(status.error)


@pytest.mark.usefixtures("sleepers")
def test_a_public_space_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = run_on(), run_on()
    enqueue(run)
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    with pytest.raises(RunError, match="switched off on a public Space"):
        enqueue(other)
    assert start_next() == []
    assert (state(run), state(other)) == ("queued", "created")


@pytest.mark.usefixtures("sleepers")
@pytest.mark.parametrize(
    ("ending", "was_asked", "is_followed"),
    [
        ("finished", False, True),
        ("failed", False, True),
        ("stopped", True, True),
        # SIGTERM and no request: a shutdown would end the whole line, one run after the other.
        ("stopped", False, False),
    ],
)
def test_who_is_followed(ending: str, was_asked: bool, is_followed: bool) -> None:
    over, waiting = run_on(), run_on()
    enqueue(waiting)
    write_status(over, Status(ending))
    if was_asked:
        jobs.ask_to_stop(over)
    hand_on(over)
    assert (state(waiting) == "starting") == is_followed


@pytest.mark.usefixtures("sleepers")
def test_a_worker_leaves_the_line_to_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    over, waiting = run_on(), run_on()
    enqueue(waiting)
    write_status(over, Status("running", os.getpid(), process_start(os.getpid())))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    close(over, "failed", "not its to say")
    hand_on(over)
    assert (state(over), state(waiting)) == ("running", "queued")
    monkeypatch.delenv("RANK")
    hand_on(over)
    assert state(waiting) == "queued", "this very process still has the devices"
    close(over, "failed", "It was the launcher.")
    hand_on(over)
    assert (state(over), read_status(over).error) == ("failed", "It was the launcher.")
    assert state(waiting) == "starting"
