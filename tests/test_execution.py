"""What a run's own process does around the work: claim, see its GPUs only, close, hand on."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stentor import jobs
from stentor.errors import OptionError, RunError
from stentor.run_queue import enqueue
from stentor.runs import Run, Status, create_run, current_status, process_start, read_status
from stentor.runs import write_status as write
from training.execution import execute_here

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def following(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Return a run in line that sleeps once it is started."""
    monkeypatch.setattr(jobs, "command_for", lambda run, verb: SLEEP)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # put back afterwards
    waiting = create_run({"devices": "0,1"}, "following")
    enqueue(waiting)
    yield waiting
    pid = read_status(waiting).pid
    if pid and pid != os.getpid():
        os.kill(pid, signal.SIGKILL)


def use(monkeypatch: pytest.MonkeyPatch, error: BaseException | None) -> None:
    """Let the trainer's place be taken by one that ends at once, with `error` or well."""

    def execute(run: Run) -> int:
        assert current_status(run).state == "starting"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        if error is not None:
            raise error
        write(run, Status("finished"))
        return 0

    trainer = SimpleNamespace(execute=execute)
    monkeypatch.setattr("training.execution.importlib.import_module", lambda name: trainer)


def test_a_finished_run_hands_on(following: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, None)
    run = create_run({"devices": "1"}, "first")
    assert execute_here(run.folder) == 0
    assert current_status(run).state == "finished"
    assert current_status(following).state == "starting"


@pytest.mark.parametrize(
    ("error", "state", "words", "is_followed"),
    [
        (ImportError("no torch"), "failed", "ImportError: no torch", True),
        (KeyboardInterrupt(), "stopped", "Interrupted while it was starting.", False),
    ],
)
def test_an_ending_that_the_trainer_could_not_write_is_written(
    error: BaseException,
    state: str,
    words: str,
    is_followed: bool,
    following: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A broken installation once read `The process ended without a word`."""
    use(monkeypatch, error)
    run = create_run({"devices": "1"}, "first")
    with pytest.raises(type(error)):
        execute_here(run.folder)
    status = current_status(run)
    assert (status.state, status.error) == (state, words)
    assert (current_status(following).state == "starting") == is_followed


def test_what_is_no_run_or_is_going_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"is no run folder \(it has no recipe.json\)"):
        execute_here(tmp_path)
    run = create_run({}, "going")
    write(run, Status("running", os.getppid(), process_start(os.getppid())))
    with pytest.raises(RunError, match="already going"):
        execute_here(run.folder)
    assert current_status(run).state == "running", "it belongs to the other process"
