"""The event log and the text log of a run: append, and read from a byte offset.

Readers keep an offset and nothing else. What the events mean is the trainer's and the page's.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.run_folder import Run

EVENT_VERSION = 1
# One read of a tail; a longer backlog comes in several reads, so no reader holds a whole log.
TAIL_BYTES = 4 << 20
# Looked through for the last step: mostly a few lines are enough, but samples may follow it.
PLACE_BYTES = (4 << 10, 256 << 10)
PLACE_KINDS = ("metrics", "stage_started")


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
    return list(_parse_lines(complete.splitlines())), offset + len(complete)


def _parse_lines(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events of some lines; a half line left by a killed writer is passed over."""
    for line in lines:
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


@dataclass(frozen=True)
class Place:
    """How far a run came. `time`: seconds since the epoch."""

    stage: str
    step: int
    time: float


def last_place(run: Run) -> Place | None:
    """Return the newest step in the event log, from its end; None where none is near it."""
    for num_bytes in PLACE_BYTES:
        for event in _parse_lines(_read_end(run.events_file, num_bytes).splitlines()[::-1]):
            stage, step, moment = event.get("stage"), event.get("step"), event.get("t")
            is_whole = isinstance(stage, str) and type(step) is int
            if event["kind"] in PLACE_KINDS and is_whole and isinstance(moment, int | float):
                return Place(event["stage"], event["step"], event["t"])
    return None


def tail_log(run: Run, max_bytes: int = 16_000) -> str:
    """Return the end of the child's output."""
    return _read_end(run.log_file, max_bytes).decode("utf-8", errors="replace")


def _read_end(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - max_bytes))
            return stream.read()
    except OSError:
        return b""
