"""Watch a run from a terminal: copy its log until it ends. Standard library only."""

import time
from typing import Any

from stentor.errors import StentorError
from stentor.jobs import ACTIVE_STATES, active_runs
from stentor.run_devices import describe_devices, devices_of, share_device
from stentor.run_queue import QUEUED, rivals_before, start_next
from stentor.run_wishes import ask_to_stop
from stentor.runs import Run, Status, current_status, list_checkpoints, tail_log

POLL_SECONDS = 0.2
LAST_LINES = 8
LAST_BYTES = 4_000


def follow(run: Run, offset: int = 0) -> int:
    """Print the log from byte `offset` until the run ends; Ctrl-C saves and stops the run.

    Returns the exit code: 0 finished or stopped, 2 failed or died.
    """
    while True:
        is_active = current_status(run).state in ACTIVE_STATES  # read before the log's last lines
        try:
            offset = _print_new(run, offset)
            if not is_active:
                break
            time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            print("Asked to save and stop after the current step.")
            ask_to_stop(run)
    status = current_status(run)
    print("\n".join(_ending(run, status)))
    if status.state == "died":
        _start_next()  # a run that ends otherwise has done it
    return 2 if status.state in ("failed", "died") else 0


def _start_next() -> None:
    try:
        for run in start_next():
            print(f"Started the next run in line: {run.id}")
    except StentorError as error:
        print(error)


def _ending(run: Run, status: Status) -> list[str]:
    """Return how the run ended and what can be done next; why it failed is in its log."""
    is_told = not status.error or status.state == "failed"
    lines = [f"Run {run.id}: {status.state}" + ("" if is_told else f" ({status.error})")]
    if status.state in ("stopped", "died"):
        lines.append(f"To go on: python -m training resume {run.id}")
    if status.state == "finished" and status.checkpoint:
        model = f"run:{run.id}/{status.checkpoint}"
        lines.append(f'To try it: python -m stentor generate "Once upon a time" --model {model}')
    return lines


def _print_new(run: Run, offset: int) -> int:
    if not run.log_file.exists():
        return offset
    with run.log_file.open("rb") as log:
        log.seek(offset)
        block = log.read()
    print(block.decode("utf-8", errors="replace"), end="", flush=True)
    return offset + len(block)


def status_to_json(run: Run) -> dict[str, Any]:
    """Return what a script wants to know of a run."""
    status = current_status(run)
    return {
        "run": run.id,
        "state": status.state,
        "stage": status.stage,
        "step": status.step,
        "total_steps": status.total_steps,
        "finished_stages": list(status.finished_stages),
        "checkpoint": f"run:{run.id}/{status.checkpoint}" if status.checkpoint else None,
        "error": status.error,
        "waits_for": [other.id for other in _waits_for(run)] if status.state == QUEUED else [],
        "folder": str(run.folder),
    }


def describe_status(run: Run) -> list[str]:
    """Return the same for people, with all checkpoints and, of a run that broke, its end."""
    status = current_status(run)
    rows = [("run", run.id), ("state", status.state)]
    if status.state == QUEUED:
        rows.append(("place in line", describe_line(run)))
    if status.stage:
        of = f" of {status.total_steps:,}" if status.total_steps else ""
        rows.append(("stage", f"{status.stage}, step {status.step:,}{of}"))
    if status.finished_stages:
        rows.append(("finished stages", ", ".join(status.finished_stages)))
    if status.error:
        rows.append(("error" if status.state in ("failed", "died") else "note", status.error))
    rows.append(("folder", str(run.folder)))
    rows += [("checkpoint", f"run:{run.id}/{each.name}") for each in list_checkpoints(run)]
    lines = [f"{name:16} {value}" for name, value in rows]
    if status.state in ("failed", "died"):
        lines += _last_words(run)
    return lines


def _last_words(run: Run) -> list[str]:
    """Return the end of the log and how to go on."""
    words = [f"  {line}" for line in tail_log(run, LAST_BYTES).splitlines()[-LAST_LINES:]]
    told = ["last lines of the log", *words] if words else []
    return [*told, f"To go on: python -m training resume {run.id}"]


def describe_line(run: Run) -> str:
    """Return a queued run's place in line in words."""
    number = len(rivals_before(run)) + 1
    after = ", ".join(other.id for other in _waits_for(run))
    where = describe_devices(devices_of(run))
    return f"{run.id}: number {number} in line for {where}" + (f", after {after}" if after else "")


def _waits_for(run: Run) -> list[Run]:
    """Return who uses the devices of a queued run now, and who is in line for them before it."""
    devices = devices_of(run)
    going = [other for other in active_runs() if share_device(devices, devices_of(other))]
    return [*going, *rivals_before(run)]
