"""The events of the runs that are watched, read once and kept in memory for all who watch.

A feed is a digest of one run and what was made of it last; it is a cache, all of it comes from the
run folder, and a new app reads the same. One thread at a time brings a feed up to date. Knows no
browser and no Gradio.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

from stentor.jobs import ACTIVE_STATES
from stentor.runs import (
    Run,
    Status,
    current_status,
    list_runs,
    read_recipe,
    tail_events,
    tail_log,
)
from stentor.ui import train_view as view
from stentor.ui.chart import MAX_POINTS, Digest
from stentor.ui.train_actions import seconds_since_stop
from training.recipe import Recipe, recipe_from_json

MAX_FEEDS = 8
MAX_LISTED_RUNS = 100
# HTML and the menu of runs are at most this old, unless a run's state has changed: they are made
# once in this time for any number of browsers. Points are never old.
FRESH_SECONDS = 1.0
# Of the events file, before the place up to which it was read: what it must still hold.
ANCHOR_BYTES = 256


@dataclass
class Feed:
    """The digest of one run, and what was made of it last."""

    lock: Lock = field(default_factory=Lock)
    digest: Digest = field(default_factory=Digest)
    _offset: int = 0  # bytes of the events file that were read
    _anchor: bytes = b""
    _seen: tuple[int, int, int] | None = None  # inode, size and time of the file
    _recipe: tuple[int, Recipe] | None = None  # with the time of its file
    _whole: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    _along: dict[str, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    _marks: dict[str, tuple[int, list[dict[str, Any]]]] = field(default_factory=dict)
    _parts: tuple[tuple[object, ...], float, str, dict[str, str]] | None = None
    _log: tuple[int, str] | None = None

    def catch_up(self, run: Run) -> None:
        """Feed what was appended since; begin anew where it is another file, or a shorter one."""
        try:
            found = run.events_file.stat()
            seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return
        self._seen = seen
        if seen[1] < self._offset or _read_before(run.events_file, self._offset) != self._anchor:
            # The numbers of the events go on, so that no browser takes the new ones for the old.
            start = self.digest.sequence + 1
            self.digest, self._offset = Digest(sequence=start, rewound=start), 0
        while self._offset < seen[1]:
            events, following = tail_events(run, self._offset)
            self.digest.feed(events)
            if following == self._offset:
                break
            self._offset = following
        self._anchor = _read_before(run.events_file, self._offset)

    def recipe_of(self, run: Run) -> Recipe:
        """Return the run's recipe, read again when its file has changed."""
        try:
            changed = run.recipe_file.stat().st_mtime_ns
        except OSError:
            changed = -1
        if self._recipe is None or self._recipe[0] != changed:
            self._recipe = (changed, recipe_from_json(read_recipe(run)))
        return self._recipe[1]

    def whole_curves(self, axis: str) -> dict[str, Any]:
        """Return all curves, thinned; made once a change, whoever asks."""
        known = self._whole.get(axis)
        if known is None or known[0] != self.digest.sequence:
            known = self._whole[axis] = (self.digest.sequence, curves(self.digest, axis))
        return known[1]

    def lies_along(self, axis: str) -> dict[str, Any]:
        """Return what lies along the curves: stages, samples, alarms, resumes; once a change."""
        digest = self.digest
        marks = self._marks.get(axis)
        if marks is None or marks[0] != digest.pinned:
            marks = self._marks[axis] = (digest.pinned, digest.marks(axis))
        known = self._along.get(axis)
        if known is None or known[0] != digest.sequence:
            along = {**digest.along(axis), "marks": marks[1]}
            known = self._along[axis] = (digest.sequence, along)
        return known[1]

    def parts_of(self, run: Run, status: Status, refusal: str | None) -> tuple[str, dict[str, str]]:
        """Return the HTML of the page's parts and a key that changes with it."""
        is_stopping = seconds_since_stop(run) is not None
        state = (replace(status, heartbeat=0.0, step=0), is_stopping, refusal)
        now = time.monotonic()
        known = self._parts
        if known is None or known[0] != state or now - known[1] >= FRESH_SECONDS:
            made = view.parts(run, self.recipe_of(run), status, self.digest, refusal)
            key = blake2b(json.dumps(made).encode(), digest_size=12).hexdigest()
            known = self._parts = (state, now, key, made)
        return known[2], known[3]

    def log_of(self, run: Run) -> tuple[int, str]:
        """Return the size of the run's log and its end."""
        size = run.log_file.stat().st_size if run.log_file.exists() else 0
        if self._log is None or self._log[0] != size:
            self._log = (size, tail_log(run))
        return self._log


class RunFeeds:
    """The feeds of the runs looked at last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._feeds: OrderedDict[str, Feed] = OrderedDict()
        self._list_lock = Lock()
        self._listed: tuple[float, list[dict[str, Any]]] | None = None

    @contextmanager
    def follow(self, run: Run) -> Iterator[Feed]:
        """Lend the run's feed, up to date; nobody else changes it meanwhile."""
        with self._lock:
            feed = self._feeds.setdefault(str(run.folder), Feed())
            self._feeds.move_to_end(str(run.folder))
            while len(self._feeds) > MAX_FEEDS:
                self._feeds.popitem(last=False)
        with feed.lock:
            feed.catch_up(run)
            yield feed

    def list_runs(self) -> list[dict[str, Any]]:
        """Return the newest runs for the menu, read at most once a moment for all browsers."""
        with self._list_lock:
            known = self._listed
            if known is None or time.monotonic() - known[0] >= FRESH_SECONDS:
                known = self._listed = (time.monotonic(), _list_runs())
            return known[1]


def curves(
    digest: Digest,
    axis: str,
    limit: int = MAX_POINTS,
    stretch: tuple[float, float] | None = None,
    names: list[str] | None = None,
) -> dict[str, Any]:
    """Return curves as plain lists, each thinned to `limit` points that keep its extremes."""
    return {
        name: table.curve(name, axis, limit, stretch)
        for table in digest.tables
        for name in table.columns
        if names is None or name in names
    }


def curves_after(digest: Digest, axis: str, sequence: int) -> dict[str, Any] | None:
    """Return the points that came after an event; None: a browser that has that needs all."""
    if not max(1, digest.rewound) <= sequence <= digest.sequence:
        return None
    tables = [table for table in digest.tables if table.num_after(sequence)]
    if any(table.num_after(sequence) > MAX_POINTS for table in tables):
        return None
    return {
        name: table.curve_after(name, axis, sequence) for table in tables for name in table.columns
    }


def _read_before(path: Path, offset: int) -> bytes:
    """Return the last bytes of a file before `offset`."""
    first = max(0, offset - ANCHOR_BYTES)
    try:
        with path.open("rb") as stream:
            stream.seek(first)
            return stream.read(offset - first)
    except OSError:
        return b""


def _list_runs() -> list[dict[str, Any]]:
    listed = []
    for run in list_runs()[:MAX_LISTED_RUNS]:
        status = current_status(run)
        listed.append(
            {
                "id": run.id,
                "label": view.run_label(run, status.state),
                "state": status.state,
                "queue_place": status.queue_place,
                "is_active": status.state in ACTIVE_STATES,
            }
        )
    return listed
