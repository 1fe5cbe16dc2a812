"""The recorder's heartbeat, and events from several threads at once."""

import errno
import json
import threading
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any

import pytest

from stentor.runs import Run, create_run, read_events, read_status
from training.recorder import Recorder

pytestmark = pytest.mark.usefixtures("old_signals")


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a recorder's heart beat every few milliseconds."""
    monkeypatch.setattr("training.recorder.HEARTBEAT_SECONDS", 0.005)
    monkeypatch.setattr("training.recorder.LOAD_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_long_silence_is_no_death(run: Run) -> None:
    """Text is prepared for hours: readers saw a heartbeat as old as that, and no load at all."""
    seen: list[tuple[str, Mapping[str, Any]]] = []
    with Recorder(run) as recorder:
        recorder.observer = lambda kind, values: seen.append((kind, values))
        recorder.update(stage="general", step=7, total_steps=9)
        recorder.tokens = 3584
        time.sleep(0.05)
        assert not run.events_file.exists(), "before its first event it may become a launcher"
        recorder.event("stage_started", stage="general")
        first = read_status(run).heartbeat
        wait_until(lambda: len(seen) > 3 and read_status(run).heartbeat > first)
        assert read_status(run).step == 7
    systems = [event for event in read_events(run) if event["kind"] == "system"]
    assert len(systems) >= 3
    for event in systems:
        assert (event["stage"], event["step"], event["tokens"]) == ("general", 7, 3584)
        assert event["memory_bytes"] > 0 and event["disk_free_bytes"] > 0
    assert [kind for kind, _ in seen[:2]] == ["stage_started", "system"], "observers are told, too"
    assert seen[1][1]["memory_total_bytes"] > 0


@pytest.mark.usefixtures("quick")
def test_nothing_is_written_once_the_run_is_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a beat whose driver answers long after everybody has stopped waiting for it."""
    asked, answered = Event(), Event()

    def slow(_folder: object) -> dict[str, Any]:
        asked.set()
        answered.wait(60.0)
        return {}

    monkeypatch.setattr("training.recorder.sample_load", slow)
    monkeypatch.setattr("training.heartbeat.PATIENCE_SECONDS", 0.01)
    with Recorder(run) as recorder:
        recorder._next_load = 1.0  # the meter of the CPU runs already
        recorder.event("warning", message="x")
        assert asked.wait(60.0)
    files = (run.status_file.read_bytes(), run.events_file.read_bytes())
    assert read_status(run).state == "stopped"
    answered.set()
    wait_until(lambda: not any(t.name == "stentor-heartbeat" for t in threading.enumerate()))
    assert (run.status_file.read_bytes(), run.events_file.read_bytes()) == files


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_told_by_the_thread_that_trains(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder(run) as recorder:
        recorder.event("warning", message="x")
        with monkeypatch.context() as patch:
            for name in ("append_event", "write_status"):
                patch.setattr(f"training.recorder.{name}", refuse)
            time.sleep(0.05)
        first = time.time()
        wait_until(lambda: read_status(run).heartbeat > first)  # it beats on


def test_events_of_many_threads_are_whole_lines(run: Run) -> None:
    seen: list[object] = []
    with Recorder(run) as recorder:
        recorder.observer = lambda _, values: seen.append(values["number"])

        def write(number: int) -> None:
            for _ in range(50):
                recorder.event("alarm", number=number, message="x" * 5_000)
                recorder.progress(number, number)

        threads = [Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = run.events_file.read_text().splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == sorted([0, 1, 2, 3] * 50)
    assert len(seen) == 200


def test_an_observer_may_raise_an_event_itself(run: Run) -> None:
    """A watch of its own locks must not meet one of the recorder's."""
    with Recorder(run) as recorder:

        def watch(kind: str, _: Mapping[str, Any]) -> None:
            if kind == "metrics":
                other = Thread(target=lambda: recorder.event("alarm", alarm="spike"))
                other.start()
                other.join(30.0)
                assert not other.is_alive(), "the lock was held while the observer was told"

        recorder.observer = watch
        recorder.event("metrics", loss=9.0)
    assert [event["kind"] for event in read_events(run)] == ["metrics", "alarm"]
