"""Starting, stopping and finding a training child, with real processes.

The child here runs the command of a real run, but its recipe ends it early or it is a plain
sleeper: what a whole run does is told in test_runner.py.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stentor import jobs
from stentor.errors import RunError
from stentor.home import home
from stentor.run_devices import changed, for_devices, restored
from stentor.run_wishes import ask_to_sample, ask_to_save
from stentor.runs import (
    Run,
    Status,
    create_run,
    current_status,
    process_start,
    read_status,
    tail_log,
    write_status,
)

ROOT = Path(__file__).resolve().parent.parent
# A stand-in for hours of training: claims the run as the trainer does and spawns a helper.
SLEEPER = """
import subprocess, sys, time
from pathlib import Path
from dataclasses import replace
from stentor.jobs import claim
from stentor.runs import Run, write_status
run = Run(Path(sys.argv[1]))
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(run.folder / "helper").write_text(str(helper.pid))
write_status(run, replace(claim(run), state="running"))
time.sleep(600)
"""
# Starts a run and leaves at once, as an app does that is closed.
SHORT_LIVED_PARENT = """
import sys
from pathlib import Path
from stentor import jobs
from stentor.runs import Run
jobs.command_for = lambda run, verb: [sys.executable, "-c", sys.argv[2], str(run.folder)]
jobs.start(Run(Path(sys.argv[1])))
"""


@pytest.fixture
def run() -> Run:
    return create_run({"name": "tiny"}, "tiny")


def start_sleeper(run: Run) -> None:
    """Start the sleeper from a process that ends before this returns."""
    subprocess.run(
        [sys.executable, "-c", SHORT_LIVED_PARENT, str(run.folder), SLEEPER],
        cwd=ROOT,
        check=True,
        timeout=240,
    )


def wait_for_state(run: Run, state: str) -> Status:
    deadline = time.monotonic() + 240
    while (status := current_status(run)).state != state:
        assert time.monotonic() < deadline, f"{status} {tail_log(run)}"
        time.sleep(0.01)
    return status


def test_a_child_outlives_its_parent_and_ends_with_its_whole_group(run: Run) -> None:
    start_sleeper(run)
    status = wait_for_state(run, "running")
    assert status.pid is not None
    assert os.getpgid(status.pid) == status.pid, "its own group: closing the app cannot reach it"
    active = jobs.active_run()
    assert active is not None and active.id == run.id

    other = create_run({"name": "other"}, "other")
    with pytest.raises(
        RunError, match=f"Run {run.id} is still going on all devices. Stop it, wait"
    ):
        jobs.start(other)
    assert current_status(other).state == "created"
    with pytest.raises(RunError, match=rf"already going \(process {status.pid}\)"):
        jobs.claim(run)

    helper = int((run.folder / "helper").read_text())
    assert process_start(helper)
    assert jobs.terminate(run)
    assert process_start(status.pid) is None
    assert wait_until_dead(helper)
    status = current_status(run)
    assert (status.state, status.error) == ("stopped", "Ended on request.")
    assert jobs.active_run() is None


def wait_until_dead(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while process_start(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process_start(pid) is None


def test_a_child_that_ignores_term_is_killed_and_the_status_says_on_request(run: Run) -> None:
    """It once read `The process ended without a word`, to the user who had ended it."""
    deaf = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    with run.log_file.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", deaf, str(run.folder)],
            cwd=ROOT,
            start_new_session=True,
            stderr=log,
        )
    wait_for_state(run, "running")
    assert jobs.terminate(run, seconds=0.2)
    assert child.wait(timeout=30) == -signal.SIGKILL
    status = current_status(run)
    assert (status.state, status.error) == ("stopped", "Ended on request.")


def test_a_start_that_fails_at_once_is_seen_at_once(run: Run) -> None:
    """The recipe is no recipe: the real child says so, with its exit code and its log."""
    run.stop_file.touch()
    jobs.start(run)
    assert not run.stop_file.exists(), "an old wish to stop must not stop a new start"
    command = shlex.split(run.command_file.read_text())
    assert command[1:] == ["-m", "training", "run", str(run.folder)]
    assert jobs.wait_until_ended(run, 240)
    status = current_status(run)
    assert status.state == "failed", tail_log(run)
    assert status.error == "A recipe is an object with a list of stages under 'stages'."
    assert status.error in tail_log(run)


def test_a_child_killed_before_its_first_status_is_found_dead(run: Run) -> None:
    """A start without a pid once counted as going for a whole minute, and blocked all others."""
    jobs.start(run)
    status = read_status(run)
    assert status.pid is not None and status.process_start is not None
    os.kill(status.pid, signal.SIGKILL)
    assert jobs.wait_until_ended(run, 30)
    died = current_status(run)
    assert died.state == "died", "the child had no time to fail"
    assert died.error == "Died before its first stage: the process ended without a word."
    jobs.check_can_start()


def test_two_runs_go_at_once_where_they_share_no_gpu(run: Run) -> None:
    """These are names: whether such a GPU exists is for the run itself to find out."""
    runs = {devices: create_run({"devices": devices}, "gpu") for devices in ("0", "1", "0,1", "")}
    mine = Status("running", os.getpid(), process_start(os.getpid()))
    write_status(runs["0"], mine)
    jobs.check_can_start("1")
    for devices, words in (("0", "GPU 0"), ("0,1", "GPU 0"), ("00", "GPU 0"), ("", "GPU 0")):
        with pytest.raises(RunError, match=f"Run {runs['0'].id} is still going on {words}. Stop"):
            jobs.check_can_start(devices)
    write_status(runs["1"], mine)
    assert {one.id for one in jobs.active_runs()} == {runs["0"].id, runs["1"].id}
    for devices in ("0", "1"):
        blocking = jobs.blocking_run(devices)
        assert blocking is not None and blocking.id == runs[devices].id
    jobs.check_can_start("2")
    write_status(runs["0"], Status())
    write_status(runs["1"], Status())
    write_status(runs[""], mine)
    with pytest.raises(RunError, match="still going on all devices"):
        jobs.check_can_start("2")
    runs[""].recipe_file.write_text("{")  # nobody knows what it uses
    assert jobs.blocking_run("2") == runs[""]


def test_a_run_sees_its_gpus_only_and_passes_no_setting_on() -> None:
    """A run that starts the next one once gave it its own GPUs, and its workers' threads."""
    users = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "2,3"}
    own = for_devices(users, "0,1")
    assert (own["CUDA_VISIBLE_DEVICES"], own["CUDA_DEVICE_ORDER"]) == ("0,1", "PCI_BUS_ID")
    workers = changed(for_devices(own, "0,1"), {"OMP_NUM_THREADS": "1"})
    assert workers["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert restored(workers) == restored(own) == restored(users) == users
    assert for_devices(users, "") == users, "all that the user lets us see"


def test_a_public_space_never_trains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs.training_refusal() is None
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    with pytest.raises(RunError, match="switched off on a public Space"):
        jobs.start(run)
    assert current_status(run).state == "created"
    assert not run.command_file.exists() and not run.log_file.exists()


def test_a_command_that_does_not_exist_fails_with_a_message(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunError, match="cannot be started"):
        jobs.start(run)
    assert current_status(run).state == "failed"
    assert jobs.active_run() is None


def test_a_disk_that_takes_nothing_is_a_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk once showed the page, and the terminal, a traceback."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("STENTOR_HOME", str(tmp_path / "file" / "home"))
    for begin in (jobs.start, jobs.claim):
        with pytest.raises(RunError, match="The run's files cannot be written"):
            begin(run)


def test_an_asked_stop_is_a_file(run: Run) -> None:
    jobs.ask_to_stop(run)
    jobs.ask_to_stop(run)
    ask_to_save(run)
    ask_to_sample(run)
    asked = (run.stop_file, run.save_file, run.sample_file)
    assert [path.name for path in asked if path.exists()] == ["stop", "save", "sample"]
    jobs.claim(run)
    assert not any(path.exists() for path in asked), "of an earlier start"
    shutil.rmtree(run.folder)
    with pytest.raises(RunError, match="cannot be written"):
        ask_to_save(run)


def test_claiming_by_hand_forgets_an_old_stop_but_not_one_asked_while_starting(run: Run) -> None:
    """A run asked to stop and then killed once stopped again after one step of its resume."""
    write_status(run, Status(state="failed", error="x"))
    run.stop_file.touch()
    assert jobs.claim(run).error is None
    assert not run.stop_file.exists()
    run.stop_file.touch()
    assert jobs.claim(run).pid == os.getpid()
    assert run.stop_file.exists()


def test_terminate_without_a_process_is_done(run: Run) -> None:
    assert jobs.terminate(run)
    write_status(run, Status(state="running", pid=os.getpid(), process_start="1"))
    assert jobs.terminate(run), "a pid used again is never killed"
    assert current_status(run).state == "died", "it was gone before anyone asked"


def test_the_lock_is_in_the_home_folder(run: Run) -> None:
    jobs.claim(run)
    assert (home() / "start.lock").exists()
    assert json.loads(run.status_file.read_text())["state"] == "starting"


def test_a_worker_claims_in_the_name_of_its_launcher(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run became the launcher; its pid stays the one that a stop button reaches."""
    launcher = jobs.claim(run)
    assert (launcher.pid, jobs.worker_rank(), jobs.launcher_pid()) == (os.getpid(), None, None)
    write_status(run, replace(launcher, state="running"))
    monkeypatch.setenv(jobs.LAUNCHER_VARIABLE, str(os.getppid()))
    assert jobs.launcher_pid() is None, "not a worker"
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RunError, match="already going"):
        jobs.claim(run)  # of another launcher
    write_status(run, Status("running", os.getppid(), process_start(os.getppid())))
    run.stop_file.touch()
    status = jobs.claim(run)
    assert (status.state, status.pid) == ("starting", os.getppid())
    assert status.process_start == process_start(os.getppid())
    assert run.stop_file.exists(), "a stop asked for while the workers start counts"


def test_workers_that_someone_started_by_hand_belong_to_the_main_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert jobs.worker_rank() == 1
    before = read_status(run)
    assert jobs.claim(run) == before == read_status(run), "this one only reads"
    monkeypatch.setenv("RANK", "0")
    assert jobs.claim(run).pid == os.getpid()
    monkeypatch.delenv("WORLD_SIZE")
    assert jobs.worker_rank() is None, "RANK alone is some other program's variable"
