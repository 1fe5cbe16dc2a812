"""Start, stop and find a training child. The child belongs to its run folder, not to this process.

The child gets its own session (so closing the app does not end it), writes its output to `log.txt`
(no pipe that could fill), and is found again through pid and start time in `status.json`. Where
several workers train together, the process recorded there is the launcher that started them, or the
main worker where someone started them by hand.
"""

import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from stentor.errors import RunError
from stentor.home import assets_folder, home
from stentor.runs import (
    Run,
    Status,
    current_status,
    list_runs,
    process_start,
    read_status,
    write_status,
)

TERMINATE_SECONDS = 10.0
POLL_SECONDS = 0.05
ACTIVE_STATES = ("starting", "running")
# Set by a run that becomes the launcher of its workers: the pid that is recorded for all of them.
LAUNCHER_VARIABLE = "STENTOR_LAUNCHER"


def training_refusal() -> str | None:
    """Say why this machine never trains, or None. A public Space can never start training."""
    if os.environ.get("SPACE_ID"):
        return "Training is switched off on a public Space. Run the playground on your own machine."
    return None


def active_run() -> Run | None:
    """Return the run that is going, if there is one."""
    return next((run for run in list_runs() if current_status(run).state in ACTIVE_STATES), None)


def check_can_start() -> None:
    """Raise RunError when this machine never trains, or when another run is still going."""
    refusal = training_refusal()
    if refusal:
        raise RunError(refusal)
    other = active_run()
    if other is not None:
        raise RunError(
            f"Run {other.id} is still going; one run at a time. Stop it or wait for its end."
        )


def command_for(run: Run, verb: str) -> list[str]:
    """Return the exact command; `verb` is `run` or `resume`."""
    return [sys.executable, "-m", "training", verb, str(run.folder)]


def start(run: Run, verb: str = "run") -> None:
    """Start the run's process and return at once.

    Raises:
        RunError: this machine never trains, or another run is still going.
    """
    with _start_lock():
        check_can_start()
        run.stop_file.unlink(missing_ok=True)
        command = command_for(run, verb)
        run.command_file.write_text(shlex.join(command) + "\n", encoding="utf-8")
        # The child alone writes the status once it claims the run; this covers its first moment.
        status = _starting(run, None)
        write_status(run, status)
        try:
            _spawn(run, command)
        except OSError as error:
            message = f"The training process cannot be started ({error})."
            write_status(run, replace(status, state="failed", error=message))
            raise RunError(message) from error


def worker_rank() -> int | None:
    """Return the number of this worker among those started by torchrun or accelerate, or None."""
    value = os.environ.get("RANK", "") if "WORLD_SIZE" in os.environ else ""
    return int(value) if value.isdigit() else None


def launcher_pid() -> int | None:
    """Return the process that started this worker on behalf of its run, or None."""
    value = os.environ.get(LAUNCHER_VARIABLE, "") if worker_rank() is not None else ""
    return int(value) if value.isdigit() else None


def claim(run: Run) -> Status:
    """Make this process the one that runs `run`, before anything slow is imported.

    Of several workers the main one claims, in the name of the launcher that the run became; the
    others only read.

    Raises:
        RunError: another process runs it already.
    """
    if worker_rank():
        return read_status(run)
    owner = launcher_pid() or os.getpid()
    with _start_lock():
        now = current_status(run)
        if now.state in ACTIVE_STATES and now.pid not in (None, owner):
            raise RunError(f"Run {run.id} is already going (process {now.pid}).")
        if now.state not in ACTIVE_STATES:  # started by hand: an old wish to stop is no new one
            run.stop_file.unlink(missing_ok=True)
        status = _starting(run, owner)
        write_status(run, status)
        return status


def _starting(run: Run, pid: int | None) -> Status:
    return replace(
        read_status(run),
        state="starting",
        pid=pid,
        process_start=process_start(pid) if pid else None,
        heartbeat=time.time(),
        error=None,
    )


def _spawn(run: Run, command: list[str]) -> None:
    """Run `command` detached, with its output in the run's log."""
    with run.log_file.open("ab") as log:
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # `-m training` must be found wherever the app was started from.
            cwd=assets_folder().parent,
            env={**os.environ, "STENTOR_HOME": str(home()), "PYTHONUNBUFFERED": "1"},
        )


@contextmanager
def _start_lock() -> Iterator[None]:
    """Let one process at a time decide to start a run; the kernel frees a dead holder's lock.

    Raises:
        RunError: what the block, or the lock itself, wants to write has no room or no permission.
    """
    try:
        home().mkdir(parents=True, exist_ok=True)
        with (home() / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RunError(f"The run's files cannot be written ({error}).") from error


def ask_to_stop(run: Run) -> None:
    """Ask the run to save a checkpoint and end; it sees this after its current step."""
    run.stop_file.touch()


def terminate(run: Run, seconds: float = TERMINATE_SECONDS) -> bool:
    """End the run's process group: TERM, wait, KILL, wait. Return whether it is gone.

    A child that has its first steps behind it uses TERM to save, so little work is lost. For one
    that could not say a last word, the status is written here.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = _wait_for_pid(run, seconds)
        if pid is None:
            break
        with suppress(ProcessLookupError):
            # A run started by hand may share its shell's group; then only its own process ends.
            os.killpg(pid, number) if os.getpgid(pid) == pid else os.kill(pid, number)
        if wait_until_ended(run, seconds):
            _note_end(run, pid)
    return current_status(run).state not in ACTIVE_STATES


def _note_end(run: Run, pid: int) -> None:
    """Write `stopped` for a process that was ended here and left `running` or `starting` behind."""
    with _start_lock():  # nobody claims the run anew meanwhile
        status = read_status(run)
        if status.pid == pid and status.state in ACTIVE_STATES:
            write_status(run, replace(status, state="stopped", error="Ended on request."))


def _wait_for_pid(run: Run, seconds: float) -> int | None:
    """Return the pid of a run that is going; a child just started tells it in a moment."""
    deadline = time.monotonic() + seconds
    status = current_status(run)
    while status.state in ACTIVE_STATES and status.pid is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        status = current_status(run)
    return status.pid if status.state in ACTIVE_STATES else None


def wait_until_ended(run: Run, seconds: float) -> bool:
    """Wait until the run is no longer going; return whether it ended in time."""
    deadline = time.monotonic() + seconds
    while current_status(run).state in ACTIVE_STATES:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
