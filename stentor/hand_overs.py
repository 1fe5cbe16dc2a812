"""Hand-overs of runs as processes of their own: start one for a run, read how it is doing.

    STENTOR_HOME/hand_overs/<run>/report.json    where the model folder is, written last
                                  ...            process and log, see side_jobs.py

There is one for each run; starting it again forgets the one before, and the model folder that was
written is never touched. Standard library only.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stentor import side_jobs
from stentor.errors import RunError
from stentor.home import home
from stentor.jobs import check_allowed
from stentor.runs import Run


def start(run: Run, flags: Mapping[str, object]) -> None:
    """Start handing a run over; `flags`: what `python -m training hand-over` is told, by name.

    Raises:
        RunError: this machine never trains, it is going already, or nothing can be written.
    """
    check_allowed()
    folder = _folder(run)
    if folder.is_dir() and side_jobs.is_going(folder):
        raise RunError(f"Run {run.id} is being handed over already. Wait for its end.")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        side_jobs.spawn(folder, command_for(run, flags))
    except OSError as error:
        raise RunError(f"The hand-over cannot be started ({error}).") from error


def command_for(run: Run, flags: Mapping[str, object]) -> list[str]:
    """Return the exact command; a flag that is False is left out, one that is True has no value."""
    words = [sys.executable, "-m", "training", "hand-over", run.id]
    words += ["--report", str(_folder(run) / "report.json")]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value is not False:
            words.append(f"{flag}={value}")  # one word, so that no value reads as a flag
    return words


def read(run: Run) -> dict[str, Any]:
    """Return {state, news}; `state`: none, running, finished (news: where it is) or failed."""
    folder = _folder(run)
    if not folder.is_dir():
        return {"state": "none", "news": ""}
    is_alive = side_jobs.is_going(folder)  # before the report: it may end between the two
    report = side_jobs.read_values(folder / "report.json")
    lines = side_jobs.last_lines(folder)
    if is_alive:
        return {"state": "running", "news": lines[-1] if lines else "Reading the checkpoint"}
    if report is None:
        words = "\n".join(lines) or "It left no word in its log."
        return {"state": "failed", "news": words}
    address = f", and at {report['address']}" if report.get("address") else ""
    return {"state": "finished", "news": f"{report.get('folder')}{address}"}


def _folder(run: Run) -> Path:
    return home() / "hand_overs" / run.id
