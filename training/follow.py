"""Watch a run from a terminal: copy its log until it ends. Standard library only."""

import time
from typing import Any

from stentor.jobs import ACTIVE_STATES, ask_to_stop
from stentor.runs import Run, current_status

POLL_SECONDS = 0.2


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
    print(f"Run {run.id}: {status.state}" + (f" ({status.error})" if status.error else ""))
    return 2 if status.state in ("failed", "died") else 0


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
        "folder": str(run.folder),
    }
