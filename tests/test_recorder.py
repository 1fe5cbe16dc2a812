"""The trainer's side of the run folder."""

import errno
import math
import os
import signal
import subprocess
import sys

import pytest

from stentor.errors import DataError, RunError
from stentor.run_wishes import ask_to_sample, ask_to_save, ask_to_stop
from stentor.runs import (
    Run,
    Status,
    create_run,
    process_start,
    read_events,
    read_status,
    write_status,
)
from training.recorder import Recorder, SilentRecorder, Wishes

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
            recorder.progress(step, 512 * step)
        assert read_status(run).step < 49, (
            "a thousand small steps a second are not a thousand files"
        )
        assert (recorder.status.step, recorder.tokens) == (49, 512 * 49), "and are known"
        recorder.progress(100, 51_200)
        assert read_status(run).step == 100
        recorder.warn("Careful.")
    assert [event["kind"] for event in read_events(run)] == ["metrics", "warning"]
    assert math.isnan(next(read_events(run))["loss"])


def test_a_wish_is_taken_once_and_a_stop_stays(run: Run) -> None:
    with Recorder(run) as recorder:
        assert recorder.wishes() == Wishes()
        for ask in (ask_to_save, ask_to_sample, ask_to_sample):
            ask(run)
        assert recorder.wishes() == Wishes(save=True, sample=True)
        assert recorder.wishes() == Wishes()
        ask_to_stop(run)
        assert [recorder.wishes(), recorder.wishes()] == [Wishes(stop=True)] * 2
        (run.save_file / "odd").mkdir(parents=True)
        assert not recorder.wishes().save, "what cannot be removed would be granted at every step"


def refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_reason_with_what_is_left(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder(run) as recorder:
        (run.checkpoints_folder / "general-000008").mkdir()
        recorder.update(checkpoint="general-000008")
        assert recorder.kept() == "Checkpoint general-000008 is kept; resume goes on from it."
        monkeypatch.setattr("training.recorder.append_event", refuse)
        recorder.event("metrics", loss=1.0)
    status = read_status(run)
    assert status.state == "failed"
    assert str(status.error).startswith("The event log could not be written to ")
    assert "No space left on device. Free there: " in str(status.error)
    assert str(status.error).endswith("general-000008 is kept; resume goes on from it.")


def test_a_status_that_cannot_be_written_ends_the_run_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stays what it was, `running`; readers see that the process is gone."""
    with Recorder(run) as recorder:
        for name in ("append_event", "write_status"):
            monkeypatch.setattr(f"training.recorder.{name}", refuse)
        recorder.update(step=3)
    assert read_status(run).state == "running" and recorder.status.state == "failed"
    assert "Failed: The status could not be written" in capsys.readouterr().out


def test_a_full_disk_that_nobody_named_is_known_by_its_number(run: Run) -> None:
    with Recorder(run):
        refuse()
    assert str(read_status(run).error).endswith(
        "No checkpoint was written yet; resume begins anew."
    )
    with pytest.raises(FileNotFoundError), Recorder(run):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "text")
    assert str(read_status(run).error).startswith("FileNotFoundError: ")


def test_a_log_that_cannot_be_written_ends_no_training(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder(run) as recorder:
        monkeypatch.setattr("builtins.print", refuse)
        recorder.finish()
    assert read_status(run).state == "finished"


def test_a_silent_recorder_writes_nothing_and_still_hears(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(run, Status(state="running", finished_stages=("expand",)))
    before = run.status_file.read_bytes()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with SilentRecorder(run) as recorder:
        assert recorder.status.finished_stages == ("expand",)
        recorder.event("metrics", loss=1.0)
        recorder.warn("Careful.")
        recorder.update(stage="general")
        recorder.progress(4, 2048)
        run.save_file.touch()
        assert recorder.wishes() == Wishes(), "the main worker takes it"
        assert (recorder.status.stage, recorder.status.step) == ("general", 4)
        os.kill(os.getpid(), signal.SIGTERM)
        assert recorder.wishes() == Wishes(stop=True)
        raise DataError("The text is too short.")
    assert run.save_file.exists()
    assert (recorder.status.state, recorder.status.error) == ("failed", "The text is too short.")
    assert run.status_file.read_bytes() == before
    assert not run.events_file.exists() and capsys.readouterr().out == ""
