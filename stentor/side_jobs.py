"""A child of the page that is no training run: a check, a rehearsal, a hand-over.

    <folder>/process.json   pid and start of the child
             log.txt        its output, for people
             stop           exists: it was asked to end

All that is known of one is in its folder, so it survives a reload and a restart of the app. What
the child does and where its result lies is the caller's. Standard library only.
"""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from stentor.processes import spawn_detached
from stentor.runs import is_alive, process_start, write_json

PROCESS_FILE, LOG_FILE, STOP_FILE = "process.json", "log.txt", "stop"
# A folder without a process for so long was left by an app that was killed in that moment.
STARTING_SECONDS = 30.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
MAX_JSON_BYTES = 1_000_000
LAST_WORDS = 12  # lines of the log that tell why a child died
LAST_BYTES = 8_000


def spawn(folder: Path, command: list[str]) -> None:
    """Run the command detached, with its output in a file of its folder.

    Raises:
        OSError: the folder cannot be written, or the command not started.
    """
    note_process(folder, spawn_detached(command, folder / LOG_FILE, os.environ))


def note_process(folder: Path, pid: int) -> None:
    """Write down which process works for a folder."""
    write_json(folder / PROCESS_FILE, {"pid": pid, "process_start": process_start(pid)})


def is_going(folder: Path) -> bool:
    """Tell whether the child lives; one whose pid is not known yet gets a moment."""
    process = read_values(folder / PROCESS_FILE)
    if process is None:
        return age(folder) < STARTING_SECONDS
    return is_alive(process.get("pid"), process.get("process_start"))


def stop(folder: Path) -> None:
    """End the child with everything it started; without effect on one that has ended."""
    if not is_going(folder):
        return
    (folder / STOP_FILE).touch()
    deadline = time.monotonic() + STOP_SECONDS
    while (pid := _pid(folder)) is None and time.monotonic() < deadline and is_going(folder):
        time.sleep(POLL_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        if pid is None or not is_going(folder):
            return
        with suppress(ProcessLookupError):
            os.killpg(pid, number)  # it leads a group of its own
        deadline = time.monotonic() + STOP_SECONDS
        while is_going(folder) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def was_stopped(folder: Path) -> bool:
    """Tell whether the child was asked to end."""
    return (folder / STOP_FILE).exists()


def age(folder: Path) -> float:
    """Return the seconds since a folder was last changed; one that is gone is old."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return float("inf")


def read_values(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any] | None:
    """Return the values of a JSON file, or None: not there, not whole, too large."""
    try:
        with path.open("rb") as stream:
            values = json.loads(stream.read(max_bytes))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def last_lines(folder: Path) -> list[str]:
    """Return the last lines of the child's log that say something."""
    try:
        with (folder / LOG_FILE).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - LAST_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_WORDS:]


def _pid(folder: Path) -> int | None:
    pid = (read_values(folder / PROCESS_FILE) or {}).get("pid")
    return pid if isinstance(pid, int) else None
