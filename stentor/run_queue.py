"""Runs in line: each starts by itself once no earlier one needs its devices. Knows no trainer.

The line is nothing but the `queued` runs, in the order of `queue_place` in their status files: it
survives any process and a restart of the machine. `start_next` may be called by anyone at any time;
the trainer that ends calls it, and so does the app, again and again.
"""

from dataclasses import replace

from stentor.errors import RunError
from stentor.jobs import (
    ACTIVE_STATES,
    active_runs,
    begin,
    check_allowed,
    start_lock,
    training_refusal,
    verb_for,
)
from stentor.run_devices import devices_of, share_device
from stentor.runs import Run, Status, current_status, list_runs, read_status, write_status

QUEUED = "queued"


def queued_runs() -> list[Run]:
    """Return the runs in line, the first in line first."""
    waiting = [(read_status(run), run) for run in list_runs()]
    order = [(status.queue_place, run.id, run) for status, run in waiting if status.state == QUEUED]
    return [run for _, _, run in sorted(order, key=lambda entry: entry[:2])]


def rivals_before(run: Run) -> list[Run]:
    """Return who is in line before a queued run for one of its devices."""
    devices, line = devices_of(run), queued_runs()
    earlier = line[: line.index(run)] if run in line else []
    return [other for other in earlier if share_device(devices, devices_of(other))]


def enqueue(run: Run) -> None:
    """Put a run at the end of the line; it starts, or goes on, once its devices are free.

    Raises:
        RunError: this machine never trains, or the run is going, finished or in line already.
    """
    check_allowed()
    with start_lock():
        status = current_status(run)
        if status.state in (*ACTIVE_STATES, QUEUED, "finished"):
            words = {QUEUED: "in line already", "finished": "finished"}
            raise RunError(f"Run {run.id} is {words.get(status.state, 'still going')}.")
        line = queued_runs()
        last = read_status(line[-1]).queue_place if line else 0.0
        changes = replace(status, state=QUEUED, pid=None, process_start=None, queue_place=last + 1)
        write_status(run, changes)


def start_next() -> list[Run]:
    """Start every run in line whose devices are free, and return those started.

    A run that waits keeps its devices from those behind it, else one that needs two GPUs might wait
    for ever. One that cannot be started has failed, and the line goes on.

    Raises:
        RunError: the files of a run cannot be written.
    """
    if training_refusal() or not queued_runs():
        return []
    started = []
    with start_lock():
        taken = [devices_of(run) for run in active_runs()]
        for run in queued_runs():
            devices = devices_of(run)
            is_free = not any(share_device(devices, other) for other in taken)
            if is_free:
                try:
                    begin(run, verb_for(run))
                    started.append(run)
                except RunError:  # its status says so
                    continue
            taken.append(devices)
    return started


def move(run: Run, by: int) -> None:
    """Move a run in line by so many places, earlier where `by` is negative.

    Places are counted among the runs that it shares a device with: others it never waits for.

    Raises:
        RunError: the run is not in line.
    """
    with start_lock():
        _check_queued(run)
        devices = devices_of(run)
        line = queued_runs()
        rivals = [other for other in line if share_device(devices, devices_of(other))]
        here = rivals.index(run)
        there = max(0, min(len(rivals) - 1, here + by))
        if there == here:
            return
        neighbour = rivals[there]
        line.remove(run)
        line.insert(line.index(neighbour) + (there > here), run)
        for place, other in enumerate(line, start=1):
            status = read_status(other)
            if status.queue_place != place:
                write_status(other, replace(status, queue_place=float(place)))


def remove(run: Run) -> None:
    """Take a run out of the line; what it has done stays.

    Raises:
        RunError: the run is not in line.
    """
    with start_lock():
        status = _check_queued(run)
        state = "stopped" if verb_for(run) == "resume" else "created"
        write_status(run, replace(status, state=state, queue_place=0.0))


def _check_queued(run: Run) -> Status:
    status = read_status(run)
    if status.state != QUEUED:
        raise RunError(f"Run {run.id} is not in line.")
    return status
