"""What a browser asks for again and again while it watches a run.

A digest per watched run is kept and fed with what was appended since; it is a cache, all of it is
read from the run folder, and a new app reads the same. A browser sends the byte offset that it has
seen and gets the points after it. Knows no Gradio.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from stentor.errors import OptionError
from stentor.jobs import ACTIVE_STATES
from stentor.runs import (
    Run,
    Status,
    current_status,
    list_checkpoints,
    list_runs,
    open_run,
    read_recipe,
    tail_events,
    tail_log,
)
from stentor.ui import train_view as view
from stentor.ui.chart import Digest, curves_to_json
from stentor.ui.train_actions import PATIENCE_SECONDS, check_name, seconds_since_stop
from training.recipe import Recipe, recipe_from_json

MAX_DIGESTS = 8
MAX_LISTED_RUNS = 100
# After one of these a browser's points may be wrong, so it gets the whole curve again.
RESTARTING_KINDS = ("stage_started", "resumed")


@dataclass
class Feed:
    """The digest of one run up to a byte offset of its events file."""

    lock: Lock = field(default_factory=Lock)
    digest: Digest = field(default_factory=Digest)
    offset: int = 0

    def catch_up(self, run: Run) -> None:
        """Feed what was appended since; begin anew where the file is shorter than it was."""
        size = run.events_file.stat().st_size if run.events_file.exists() else 0
        if size < self.offset:
            self.digest, self.offset = Digest(), 0
        while True:
            events, following = tail_events(run, self.offset)
            self.digest.feed(events)
            if following == self.offset:
                return
            self.offset = following


class RunFeeds:
    """The feeds of the runs looked at last. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._feeds: OrderedDict[str, Feed] = OrderedDict()

    @contextmanager
    def follow(self, run: Run) -> Iterator[Feed]:
        """Lend the run's feed, up to date; nobody else changes it meanwhile."""
        with self._lock:
            feed = self._feeds.setdefault(str(run.folder), Feed())
            self._feeds.move_to_end(str(run.folder))
            while len(self._feeds) > MAX_DIGESTS:
                self._feeds.popitem(last=False)
        with feed.lock:
            feed.catch_up(run)
            yield feed


def answer(feeds: RunFeeds, question: dict[str, Any], refusal: str | None) -> dict[str, Any]:
    """Return everything that changed for one browser, as plain JSON values.

    `question`: run (id, or empty: none yet), offset (bytes of events seen), log_size (bytes of log
    seen), wants_runs. Under a `refusal` strangers are watching: they get neither log nor command,
    which name folders of this machine.

    Raises:
        OptionError, RunError: a value that is no run or no offset.
    """
    reply: dict[str, Any] = {}
    if question.get("wants_runs"):
        reply["runs"] = _list_runs()
    run_id = check_name(question.get("run", ""), "run")
    if not run_id:
        return reply
    offset = question.get("offset", 0)
    if type(offset) is not int or offset < 0:  # True is an int, too
        raise OptionError(f"The offset must be a whole number of bytes; got {offset!r:.40}.")
    run = open_run(run_id)
    # The status before the events: once it says finished, all events are there to be read.
    status = current_status(run)
    with feeds.follow(run) as feed:
        reply |= _points(run, feed, offset)
        reply |= _parts(run, status, feed.digest, refusal)
    if not refusal:
        reply |= _log_and_command(run, question.get("log_size"))
    reply["run"] = run.id
    reply["state"] = status.state
    reply["is_active"] = status.state in ACTIVE_STATES
    return reply


def _list_runs() -> list[dict[str, Any]]:
    """Return the newest runs for the menu."""
    listed = []
    for run in list_runs()[:MAX_LISTED_RUNS]:
        state = current_status(run).state
        is_active = state in ACTIVE_STATES
        listed.append({"id": run.id, "label": view.run_label(run, state), "is_active": is_active})
    return listed


def _points(run: Run, feed: Feed, offset: int) -> dict[str, Any]:
    """Return the points after `offset`, or the whole (thinned) curves."""
    events, following = tail_events(run, offset) if 0 < offset <= feed.offset else ([], 0)
    is_behind = offset == 0 or following < feed.offset
    is_whole = is_behind or any(event["kind"] in RESTARTING_KINDS for event in events)
    digest = feed.digest
    if not is_whole:
        digest = Digest()
        digest.feed(events)
    return {
        "offset": feed.offset if is_whole else following,
        "is_whole": is_whole,
        "curves": curves_to_json(digest.curves),
        "bands": feed.digest.bands(),
    }


def _parts(run: Run, status: Status, digest: Digest, refusal: str | None) -> dict[str, Any]:
    """Return the HTML of each part of the page."""
    recipe = _recipe_of(run)
    waited = seconds_since_stop(run)
    parts = {
        "heading": view.heading(run, recipe, status, digest),
        "actions": view.actions(
            status, waited is not None, (waited or 0.0) >= PATIENCE_SECONDS, refusal
        ),
        "cards": view.stage_cards(recipe, status, digest),
        "notices": view.notices(digest, status.error),
        "numbers": view.numbers_table(digest),
        "machine": view.machine_line(digest),
        "samples": view.samples(digest),
        "checkpoints": view.checkpoints(run, (path.name for path in list_checkpoints(run))),
    }
    titles = {stage.name: stage.title for stage in recipe.stages}
    return {"parts": parts, "titles": titles}


def _recipe_of(run: Run) -> Recipe:
    return recipe_from_json(read_recipe(run))


def _log_and_command(run: Run, seen_size: object) -> dict[str, Any]:
    """Return what only the owner may read, as plain text; the log only when its size is new."""
    size = run.log_file.stat().st_size if run.log_file.exists() else 0
    log = {} if size == seen_size else {"log": tail_log(run)}
    try:
        command = run.command_file.read_text(encoding="utf-8").strip()
    except OSError:
        command = "Not started yet."
    return {"log_size": size, "command": command, **log}
