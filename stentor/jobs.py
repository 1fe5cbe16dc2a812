"""Start, stop and find a training child. The child belongs to its run folder, not to this process.

The child gets its own session (so closing the app does not end it), writes its output to `log.txt`
(no pipe that could fill), and is found again through pid and start time in `status.json`. Where
several workers train together, the process recorded there is the launcher that started them, or the
main worker where someone started them by hand. Two runs go at once only where they share no device.
"""

import fcntl
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from stentor.errors import RunError
from stentor.home import home
from stentor.processes import spawn_detached
from stentor.run_devices import describe_devices, devices_of, restored, share_device
from stentor.run_wishes import ask_to_stop as ask_to_stop
from stentor.run_wishes import forget_wishes
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


def active_runs() -> list[Run]:
    """Return the runs that are going, newest first."""
    return [run for run in list_runs() if current_status(run).state in ACTIVE_STATES]


def active_run() -> Run | None:
    """Return the newest run that is going, if there is one."""
    return next(iter(active_runs()), None)


def blocking_run(devices: str) -> Run | None:
    """Return the run that uses one of these devices now; nothing named: any device."""
    return next((run for run in active_runs() if share_device(devices, devices_of(run))), None)


def check_allowed() -> None:
    """Raise RunError when this machine never trains."""
    refusal = training_refusal()
    if refusal:
        raise RunError(refusal)


def check_can_start(devices: str = "") -> None:
    """Raise RunError when this machine never trains, or when another run uses one of `devices`."""
    check_allowed()
    other = blocking_run(devices)
    if other is not None:
        raise RunError(
            f"Run {other.id} is still going on {describe_devices(devices_of(other))}. Stop it, "
            "wait for its end, or put this one in line (--queue): it then starts by itself."
        )


def check_startable(run: Run) -> None:
    """Raise RunError when a run is finished or going already."""
    state = current_status(run).state
    if state == "finished":
        raise RunError(f"Run {run.id} is finished; there is nothing to resume.")
    if state in ACTIVE_STATES:
        raise RunError(f"Run {run.id} is already going.")


def check_going(run: Run) -> None:
    """Raise RunError when a run is not going."""
    state = current_status(run).state
    if state not in ACTIVE_STATES:
        hint = " It is in line; take it out of the line instead." if state == "queued" else ""
        raise RunError(f"Run {run.id} is not going.{hint}")


def command_for(run: Run, verb: str) -> list[str]:
    """Return the exact command; `verb` is `run` or `resume`."""
    return [sys.executable, "-m", "training", verb, str(run.folder)]


def verb_for(run: Run) -> str:
    """Return `resume` for a run that was going before, else `run`."""
    return "resume" if run.events_file.exists() else "run"


def start(run: Run, verb: str | None = None) -> None:
    """Start the run's process and return at once; `verb` as in `command_for`, by default what fits.

    Raises:
        RunError: this machine never trains, or another run uses one of its devices.
    """
    with start_lock():
        check_can_start(devices_of(run))
        begin(run, verb or verb_for(run))


def begin(run: Run, verb: str) -> None:
    """Start the run's process, for a caller that holds the start lock and has asked who else goes.

    Raises:
        RunError: the process cannot be started; the run has then failed.
    """
    forget_wishes(run)
    command = command_for(run, verb)
    run.command_file.write_text(shlex.join(command) + "\n", encoding="utf-8")
    write_status(run, _starting(run, None))  # covers a kill of this process in the next moment
    try:
        # A run that ends starts the next one; what was set for itself is not passed on.
        pid = spawn_detached(command, run.log_file, restored(os.environ))
    except OSError as error:
        message = f"The training process cannot be started ({error})."
        write_status(run, replace(_starting(run, None), state="failed", error=message))
        raise RunError(message) from error
    # The child claims the run once this process gives the lock back; one that dies before is known.
    write_status(run, _starting(run, pid))


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
    with start_lock():
        now = current_status(run)
        if now.state in ACTIVE_STATES and now.pid not in (None, owner):
            raise RunError(f"Run {run.id} is already going (process {now.pid}).")
        if now.state not in ACTIVE_STATES:  # started by hand: an old wish is no new one
            forget_wishes(run)
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
        queue_place=0.0,
    )


@contextmanager
def start_lock() -> Iterator[None]:
    """Let one process at a time decide to start a run; the kernel frees a dead holder's lock.

    It cannot be taken twice: what holds it calls nothing that takes it.

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
            note_end(run, pid, "stopped", "Ended on request.")
    return current_status(run).state not in ACTIVE_STATES


def note_end(run: Run, pid: int, state: str, error: str) -> None:
    """Write how process `pid` ended, if it left `running` or `starting` behind.

    Raises:
        RunError: the status cannot be written.
    """
    with start_lock():  # nobody claims the run anew meanwhile
        status = read_status(run)
        if status.pid == pid and status.state in ACTIVE_STATES:
            write_status(run, replace(status, state=state, error=error))


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
