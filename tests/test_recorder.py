"""The trainer's side of the run folder."""

import math
import os
import signal
import subprocess
import sys

import pytest

from stentor.errors import DataError, RunError
from stentor.runs import (
    Run,
    Status,
    create_run,
    process_start,
    read_events,
    read_status,
    write_status,
)
from training.recorder import Recorder

pytestmark = pytest.mark.usefixtures("old_signals")


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


def test_a_run_that_ends_by_itself_is_finished(run: Run) -> None:
    with Recorder(run) as recorder:
        status = read_status(run)
        assert (status.state, status.pid) == ("running", os.getpid())
        assert status.process_start == process_start(os.getpid())
        recorder.update(stage="general", step=3)
        recorder.finish()
    status = read_status(run)
    assert (status.state, status.stage, status.step) == ("finished", "general", 3)


def test_a_block_left_early_is_stopped(run: Run) -> None:
    with Recorder(run):
        pass
    assert read_status(run).state == "stopped"


def test_a_message_for_the_user_is_the_reason_of_a_failure(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with Recorder(run):
        raise DataError("The text is too short.")
    status = read_status(run)
    assert (status.state, status.error) == ("failed", "The text is too short.")
    assert [event["message"] for event in read_events(run)] == ["The text is too short."]
    assert capsys.readouterr().out.endswith("Failed: The text is too short.\n")
    with Recorder(run):
        assert read_status(run).error is None, "a new try begins without the old reason"


def test_our_own_mistake_is_recorded_and_goes_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was once printed twice: here, and by the interpreter."""
    with pytest.raises(ZeroDivisionError), Recorder(run):
        print(1 // 0)
    assert read_status(run).error == "ZeroDivisionError: integer division or modulo by zero"
    assert "Traceback" not in capsys.readouterr().err


def test_a_signal_asks_to_stop_and_no_more(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A handler that prints may land inside another print and fail there."""
    with Recorder(run) as recorder:
        assert not recorder.stop_requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert recorder.stop_requested()
        assert capsys.readouterr().out == ""
    with Recorder(run) as recorder:
        assert not recorder.stop_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert recorder.stop_requested()


def test_the_stop_file_asks_to_stop(run: Run) -> None:
    with Recorder(run) as recorder:
        run.stop_file.touch()
        assert recorder.stop_requested()
    with Recorder(run) as recorder:
        assert not recorder.stop_requested(), "that wish was granted"


def test_a_run_of_another_process_is_left_alone(run: Run) -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    theirs = Status(state="running", pid=other.pid, process_start=process_start(other.pid))
    write_status(run, theirs)
    with pytest.raises(RunError, match=f"already going \\(process {other.pid}\\)"), Recorder(run):
        pass
    assert read_status(run) == theirs
    other.communicate()
    with Recorder(run):
        pass
    assert read_status(run).state == "stopped"


def test_events_keep_nan_and_progress_is_not_written_at_every_step(run: Run) -> None:
    with Recorder(run) as recorder:
        recorder.event("metrics", loss=math.nan)
        recorder.update(total_steps=100)
        for step in range(50):
            recorder.progress(step)
        assert read_status(run).step < 49, (
            "a thousand small steps a second are not a thousand files"
        )
        recorder.progress(100)
        assert read_status(run).step == 100
        recorder.warn("Careful.")
    kinds = [event["kind"] for event in read_events(run)]
    assert kinds == ["metrics", "system", "warning"]
    metrics, system, _ = read_events(run)
    assert math.isnan(metrics["loss"])
    assert system["memory_bytes"] > 0
