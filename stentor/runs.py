"""THE CONTRACT between the app and the trainer: a run is a folder.

    <id>/recipe.json     complete input, written by whoever starts the run
         command.txt     the exact command line
         status.json     state of the run, replaced atomically by the trainer
         events.jsonl    append-only; one JSON object a line; unknown kinds are ignored
         log.txt         stdout and stderr of the child; for people, never parsed
         stop            exists: save and stop after this optimizer step
         save, sample    exists: save a checkpoint, generate samples; the trainer removes it
         data/           packed tokens of each stage
         checkpoints/    <stage>-<step>/, renamed to that name when complete

Readers keep nothing: all that is shown comes from these files, for any number of browsers.
"""

import json
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stentor.errors import OptionError, RunError
from stentor.home import runs_folder
from stentor.knobs import from_json
from stentor.processes import is_alive as is_alive
from stentor.processes import process_start as process_start
from stentor.processes import was_before_boot
from stentor.run_events import EVENT_VERSION as EVENT_VERSION
from stentor.run_events import append_event as append_event
from stentor.run_events import last_place
from stentor.run_events import read_events as read_events
from stentor.run_events import tail_events as tail_events
from stentor.run_events import tail_log as tail_log
from stentor.run_folder import Run as Run

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
CHECKPOINT_NAME = re.compile(r"[a-z0-9_]+-\d{6,}")
# A start of which no process is known after this time never happened.
STARTING_SECONDS = 60.0


@dataclass(frozen=True)
class Status:
    """What `status.json` holds.

    `state`: created, queued, starting, running, stopped, finished or failed.
    """

    state: str = "created"
    pid: int | None = None
    process_start: str | None = None  # see process_start()
    heartbeat: float = 0.0  # seconds since the epoch
    stage: str | None = None
    step: int = 0
    total_steps: int = 0
    checkpoint: str | None = None  # newest complete checkpoint, a name below checkpoints/
    finished_stages: tuple[str, ...] = ()
    error: str | None = None
    queue_place: float = 0.0  # of a queued run: lower is earlier, see run_queue.py


def create_run(recipe: dict[str, Any], name: str) -> Run:
    """Make a new run folder holding `recipe`; the id is the date, the name and four letters."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32] or "run"
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{slug}-{secrets.token_hex(2)}"
    run = Run(runs_folder() / run_id)
    run.checkpoints_folder.mkdir(parents=True)
    write_json(run.recipe_file, recipe)
    write_status(run, Status())
    return run


def open_run(run_id: str) -> Run:
    """Find a run by id.

    Raises:
        RunError: the id has a forbidden character, or no such run exists.
    """
    if not RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id[:80]!r} is not a run id (small letters, digits and hyphens).")
    run = Run(runs_folder() / run_id)
    if not run.recipe_file.is_file():
        raise RunError(f"There is no run {run_id!r}. To list them: python -m training list")
    return run


def list_runs() -> list[Run]:
    """Return every run, newest first."""
    if not runs_folder().is_dir():
        return []
    # A copy such as "my run (2)" could be listed but never opened, so it is passed over.
    runs = [Run(path) for path in runs_folder().iterdir() if RUN_ID.fullmatch(path.name)]
    return sorted((r for r in runs if r.recipe_file.is_file()), key=lambda r: r.id, reverse=True)


def read_recipe(run: Run) -> dict[str, Any]:
    """Return the recipe as written."""
    try:
        recipe: dict[str, Any] = json.loads(run.recipe_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{run.recipe_file} cannot be read: {error}") from error
    return recipe


def recipe_text(run: Run, name: str) -> str:
    """Return a text of the run's recipe; empty where there is none, or no recipe to be read."""
    try:
        recipe = read_recipe(run)
    except RunError:
        return ""
    value = recipe.get(name) if isinstance(recipe, dict) else None
    return value if isinstance(value, str) else ""


def read_status(run: Run) -> Status:
    """Return the last written status; a missing or foreign file reads as `created`."""
    return _written_status(run) or Status()


def _written_status(run: Run) -> Status | None:
    try:
        values = json.loads(run.status_file.read_text(encoding="utf-8"))
        known = {name: values[name] for name in Status.__dataclass_fields__ if name in values}
        return from_json(Status, known)
    except (OSError, ValueError, TypeError, OptionError):
        return None


def write_status(run: Run, status: Status) -> None:
    """Replace the status atomically."""
    write_json(run.status_file, asdict(status))


def current_status(run: Run) -> Status:
    """Return the status as it is now: whoever starts or runs with no process has `died`.

    So has a run with steps and no readable status, which a power cut may leave. Where it died is
    read from the end of its event log, which is at most a step behind.
    """
    status = _written_status(run)
    if status is None:
        is_lost = last_place(run) is not None
        reason = "its status file cannot be read."
    elif status.state == "starting" and status.pid is None:
        is_lost = time.time() - status.heartbeat > STARTING_SECONDS
        reason = "its process was never started."
    else:
        is_active = status.state in ("starting", "running")
        is_lost = is_active and not is_alive(status.pid, status.process_start)
        is_old = was_before_boot(status.process_start)
        reason = "the machine was restarted." if is_old else "the process ended without a word."
    status = status or Status()
    return _died(run, status, reason) if is_lost else status


def _died(run: Run, status: Status, reason: str) -> Status:
    """Return the status of a run whose process is gone: at the newer place of status and events."""
    place = last_place(run)
    if place is not None and place.time > status.heartbeat:
        total = status.total_steps if place.stage == status.stage else 0
        status = replace(status, stage=place.stage, step=place.step, total_steps=total)
    where = (
        f"at step {status.step:,} of {status.stage}" if status.stage else "before its first stage"
    )
    return replace(status, state="died", error=f"Died {where}: {reason}")


def write_json(path: Path, value: object) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:  # on a full disk a half file would stay
        beside.unlink(missing_ok=True)


def list_checkpoints(run: Run) -> list[Path]:
    """Return the complete checkpoints, oldest first."""
    times: dict[Path, int] = {}
    for path in run.checkpoints_folder.glob("*-*"):
        if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir():
            with suppress(FileNotFoundError):  # the trainer pruned it in this moment
                times[path] = path.stat().st_mtime_ns
    return sorted(times, key=lambda path: (times[path], path.name))


def open_checkpoint(reference: str) -> Path:
    """Return the folder of `run:<id>/<checkpoint>`.

    Raises:
        RunError: no such run or checkpoint; the reference can never leave the runs folder.
    """
    run_id, _, name = reference.removeprefix("run:").partition("/")
    run = open_run(run_id)
    if not CHECKPOINT_NAME.fullmatch(name):
        raise OptionError(f"{name[:80]!r} is not a checkpoint name such as general-000200.")
    folder = run.checkpoints_folder / name
    if not folder.is_dir():
        known = ", ".join(path.name for path in list_checkpoints(run)) or "none yet"
        raise RunError(f"Run {run_id} has no checkpoint {name!r}; it has: {known}.")
    return folder
