"""Run a run folder in this very process, and let the next one in line start when it is over.

Standard library only, so that a run is claimed before torch, which takes seconds, is imported.
"""

import importlib
import os
from contextlib import suppress
from pathlib import Path

from stentor.errors import OptionError, StentorError
from stentor.jobs import claim, note_end, worker_rank
from stentor.run_devices import devices_of, for_devices
from stentor.run_queue import start_next
from stentor.runs import Run, current_status


def execute_here(folder: Path) -> int:
    """Run every unfinished stage of a run folder; return the exit code.

    Raises:
        OptionError: no run folder.
        RunError: another process runs it already.
    """
    run = Run(folder.resolve())
    if not run.recipe_file.is_file():
        raise OptionError(f"{folder} is no run folder (it has no recipe.json).")
    claim(run)
    os.environ.update(for_devices(os.environ, devices_of(run)))
    try:
        return int(importlib.import_module("training.runner").execute(run))
    except KeyboardInterrupt:  # before the trainer's own handler, which saves
        close(run, "stopped", "Interrupted while it was starting.")
        raise
    except BaseException as error:  # whatever it was, the status must not say `starting` for ever
        close(run, "failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        hand_on(run)


def close(run: Run, state: str, error: str) -> None:
    """Write how this process ended, where the trainer could not; the main worker knows it all."""
    if worker_rank() is None:
        try:
            note_end(run, os.getpid(), state, error)
        except StentorError as failure:
            _say(str(failure))


def hand_on(run: Run) -> None:
    """Start who waited for the devices of `run`, which is over, whichever way.

    A worker leaves it to its launcher. Nor is a run followed by another that was ended by a signal
    and no request: the machine may be shutting down, and would end one run after the other. Whoever
    ends a run's process on purpose starts the next one.
    """
    was_told = current_status(run).state == "stopped" and not run.stop_file.exists()
    if worker_rank() is not None or was_told:
        return
    try:
        for other in start_next():
            _say(f"Started the next run in line: {other.id}")
    except StentorError as error:
        _say(str(error))


def _say(line: str) -> None:
    with suppress(OSError):  # the log may have no room
        print(line, flush=True)
