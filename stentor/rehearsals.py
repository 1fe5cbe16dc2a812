"""Checks and rehearsals as processes of their own: start one, read how it is doing, stop it.

    STENTOR_HOME/rehearsals/<id>/recipe.json    what is looked at
                                 report.json    its result, written last
                                 ...            process and log, see side_jobs.py
                 rehearsals/work-<...>/         what a rehearsal writes while it runs

Old ones are deleted when another is started. Standard library only.
"""

import json
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stentor import side_jobs
from stentor.errors import RunError
from stentor.home import home
from stentor.jobs import check_allowed
from stentor.runs import write_json
from stentor.side_jobs import is_going

KINDS = ("check", "rehearse")
ID = re.compile(r"\d{8}-\d{6}-(check|rehearse)-[0-9a-f]{8}")
WORK_PREFIX = "work-"
MAX_RECIPE_BYTES = 1_000_000
MAX_REPORT_BYTES = 20_000_000
# Of each kind at once: two rehearsals would measure each other, a few checks do no harm.
MAX_GOING = {"check": 3, "rehearse": 1}
KEPT = 20
KEPT_SECONDS = 7 * 86_400.0


def rehearsals_folder() -> Path:
    """Return the folder with one folder per check or rehearsal."""
    return home() / "rehearsals"


def start(kind: str, recipe: dict[str, Any]) -> str:
    """Start a check or a rehearsal of a recipe, given as JSON values, and return its id at once.

    Raises:
        RunError: this machine never trains, too many are going, or nothing can be written.
    """
    assert kind in KINDS
    check_allowed()
    clean_up()
    going = [name for name in _ids() if f"-{kind}-" in name and is_going(_folder(name))]
    if len(going) >= MAX_GOING[kind]:
        word = "rehearsal" if kind == "rehearse" else "check"
        raise RunError(f"A {word} is going already ({going[0]}). Wait for its end or stop it.")
    if len(json.dumps(recipe)) > MAX_RECIPE_BYTES:
        raise RunError(f"No recipe has more than {MAX_RECIPE_BYTES:,} bytes.")
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{kind}-{secrets.token_hex(4)}"
    try:
        _folder(name).mkdir(parents=True)
        write_json(_folder(name) / "recipe.json", recipe)
        side_jobs.spawn(_folder(name), command_for(_folder(name), kind))
    except OSError as error:
        raise RunError(f"The {kind} cannot be started ({error}).") from error
    return name


def command_for(folder: Path, kind: str) -> list[str]:
    """Return the exact command of a child."""
    report = ["--report", str(folder / "report.json")]
    return [sys.executable, "-m", "training", kind, str(folder / "recipe.json"), *report]


def read(name: str) -> dict[str, Any]:
    """Return {state, news, report} of a check or a rehearsal.

    `state`: running, finished or failed. `news`: the last line that it said, or why it failed.

    Raises:
        RunError: there is none of this id.
    """
    folder = _existing(name)
    is_alive = is_going(folder)  # before the report: it may end between the two
    report = side_jobs.read_values(folder / "report.json", MAX_REPORT_BYTES)
    lines = side_jobs.last_lines(folder)
    if report is not None and not is_alive:
        return {"state": "finished", "news": "", "report": report}
    if is_alive:
        return {"state": "running", "news": lines[-1] if lines else "Starting", "report": None}
    if side_jobs.was_stopped(folder):
        return {"state": "failed", "news": "Stopped.", "report": None}
    words = "\n".join(lines) or "It left no word in its log."
    news = f"It ended before its report was written. Its last words:\n{words}"
    return {"state": "failed", "news": news, "report": None}


def stop(name: str) -> None:
    """End a check or a rehearsal with everything it started; without effect on one that has ended.

    Raises:
        RunError: there is none of this id.
    """
    side_jobs.stop(_existing(name))


@contextmanager
def work_folder() -> Iterator[Path]:
    """Give a rehearsal a folder to write to; it is deleted afterwards, at the latest by the next.

    Raises:
        RunError: it cannot be made.
    """
    try:
        rehearsals_folder().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=rehearsals_folder()))
        side_jobs.note_process(folder, os.getpid())
    except OSError as error:
        raise RunError(f"A rehearsal cannot write to {rehearsals_folder()} ({error}).") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clean_up() -> None:
    """Delete what has ended and is old, or one of too many, and what killed rehearsals left."""
    ended = [folder for folder in map(_folder, _ids()) if not is_going(folder)]
    for place, folder in enumerate(ended):
        if place >= KEPT or side_jobs.age(folder) > KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in rehearsals_folder().glob(f"{WORK_PREFIX}*"):
        if not is_going(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _ids() -> list[str]:
    """Return the ids of all, newest first."""
    names = [path.name for path in rehearsals_folder().glob("*") if ID.fullmatch(path.name)]
    return sorted(names, reverse=True)


def _folder(name: str) -> Path:
    return rehearsals_folder() / name


def _existing(name: str) -> Path:
    if not isinstance(name, str) or not ID.fullmatch(name) or not _folder(name).is_dir():
        raise RunError(f"There is no check or rehearsal {str(name)[:80]!r}; start another.")
    return _folder(name)
