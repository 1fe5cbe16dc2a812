"""THE CONTRACT between the app and the trainer: a run is a folder.

    <id>/recipe.json     complete input, written by whoever starts the run
         command.txt     the exact command line
         status.json     state of the run, replaced atomically by the trainer
         events.jsonl    append-only; one JSON object a line; unknown kinds are ignored
         log.txt         stdout and stderr of the child; for people, never parsed
         stop            exists: save and stop after this optimizer step
         data/           packed tokens of each stage
         checkpoints/    <stage>-<step>/, renamed to that name when complete

Readers keep nothing: all that is shown comes from these files, for any number of browsers.
"""

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stentor.errors import OptionError, RunError
from stentor.home import runs_folder
from stentor.knobs import from_json

EVENT_VERSION = 1
RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
CHECKPOINT_NAME = re.compile(r"[a-z0-9_]+-\d{6,}")
# One read of a tail; a longer backlog comes in several reads, so no reader holds a whole log.
TAIL_BYTES = 4 << 20
# A child that has not written its pid after this time never will.
STARTING_SECONDS = 60.0


@dataclass(frozen=True)
class Status:
    """What `status.json` holds.

    `state`: created, starting, running, stopped, finished or failed.
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


@dataclass(frozen=True)
class Run:
    """A run folder; the properties are paths, whether or not the files exist yet."""

    folder: Path

    @property
    def id(self) -> str:
        """Return the folder's name, unique below the runs folder."""
        return self.folder.name

    @property
    def recipe_file(self) -> Path:
        """Return the path of the complete input."""
        return self.folder / "recipe.json"

    @property
    def command_file(self) -> Path:
        """Return the path of the command line that started the run."""
        return self.folder / "command.txt"

    @property
    def status_file(self) -> Path:
        """Return the path of the state."""
        return self.folder / "status.json"

    @property
    def events_file(self) -> Path:
        """Return the path of the event log."""
        return self.folder / "events.jsonl"

    @property
    def log_file(self) -> Path:
        """Return the path of the child's output."""
        return self.folder / "log.txt"

    @property
    def stop_file(self) -> Path:
        """Return the path whose existence asks for a stop."""
        return self.folder / "stop"

    @property
    def data_folder(self) -> Path:
        """Return the folder of packed tokens."""
        return self.folder / "data"

    @property
    def checkpoints_folder(self) -> Path:
        """Return the folder of complete checkpoints."""
        return self.folder / "checkpoints"


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


def read_status(run: Run) -> Status:
    """Return the last written status; a missing or foreign file reads as `created`."""
    try:
        values = json.loads(run.status_file.read_text(encoding="utf-8"))
        known = {name: values[name] for name in Status.__dataclass_fields__ if name in values}
        return from_json(Status, known)
    except (OSError, ValueError, TypeError, OptionError):
        return Status()


def write_status(run: Run, status: Status) -> None:
    """Replace the status atomically."""
    write_json(run.status_file, asdict(status))


def current_status(run: Run) -> Status:
    """Return the status as it is now: whoever starts or runs with no process has `died`."""
    status = read_status(run)
    if status.state == "starting" and status.pid is None:
        is_lost = time.time() - status.heartbeat > STARTING_SECONDS
    else:
        is_active = status.state in ("starting", "running")
        is_lost = is_active and not is_alive(status.pid, status.process_start)
    died = replace(status, state="died", error="The process ended without a word.")
    return died if is_lost else status


def write_json(path: Path, value: object) -> None:
    """Write beside and rename, so that a reader sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        beside.replace(path)
    finally:  # on a full disk a half file would stay
        beside.unlink(missing_ok=True)


def append_event(run: Run, kind: str, **values: object) -> None:
    """Append one event; NaN and infinities are kept (JSON text `NaN`), never replaced."""
    event = {"v": EVENT_VERSION, "t": time.time(), "kind": kind, **values}
    line = json.dumps(event) + "\n"
    needs_newline = _ends_in_half_line(run.events_file)
    with run.events_file.open("a", encoding="utf-8") as stream:
        stream.write("\n" + line if needs_newline else line)


def _ends_in_half_line(path: Path) -> bool:
    """Tell whether a killed writer left a line without its newline."""
    try:
        with path.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) != b"\n"
    except OSError:  # no file, or an empty one
        return False


def tail_events(run: Run, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Return the events after byte `offset` up to the last newline, and the next offset."""
    offset = max(0, offset)
    try:
        with run.events_file.open("rb") as stream:
            stream.seek(offset)
            block = stream.read(TAIL_BYTES)
    except OSError:
        return [], offset
    complete = block[: block.rfind(b"\n") + 1]
    return list(_parse_lines(complete)), offset + len(complete)


def _parse_lines(block: bytes) -> Iterator[dict[str, Any]]:
    """Yield the events of a block; a half line left by a killed writer is passed over."""
    for line in block.splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "kind" in event:
                yield event


def read_events(run: Run) -> Iterator[dict[str, Any]]:
    """Yield every event from the first."""
    offset, following = -1, 0
    while following != offset:
        offset = following
        events, following = tail_events(run, offset)
        yield from events


def tail_log(run: Run, max_bytes: int = 16_000) -> str:
    """Return the end of the child's output."""
    try:
        with run.log_file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - max_bytes))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


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


def process_start(pid: int) -> str | None:
    """Return when a process was started, or None when it is gone (a zombie is gone).

    A pid alone is no proof, because pids are used again. On Linux this is field 22 of
    /proc/<pid>/stat, in clock ticks since boot; elsewhere what `ps` prints.
    """
    if not Path("/proc/self/stat").exists():
        ps = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return ps.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces and brackets
    return None if after_name[0] in ("Z", "X") else after_name[19]


def is_alive(pid: int | None, start: str | None) -> bool:
    """Tell whether the recorded process still runs."""
    return pid is not None and start is not None and process_start(pid) == start
