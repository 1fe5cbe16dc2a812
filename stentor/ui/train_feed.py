"""What a browser asks for again and again while it watches a run.

It sends the number of events that it has seen and gets the points after them. What is the same for
all who watch is made once a change, see train_follow.py. Knows no Gradio.
"""

from collections.abc import Mapping
from typing import Any

from stentor.errors import OptionError
from stentor.jobs import ACTIVE_STATES
from stentor.runs import Run, current_status, open_run
from stentor.ui.chart import MAX_POINTS
from stentor.ui.chart_table import AXES, as_finite
from stentor.ui.train_actions import check_name
from stentor.ui.train_follow import Feed, curves, curves_after
from stentor.ui.train_follow import RunFeeds as RunFeeds

MAX_NAMES = 200
FEWEST_POINTS = 10


def answer(feeds: RunFeeds, question: Mapping[str, Any], refusal: str | None) -> dict[str, Any]:
    """Return everything that changed for one browser, as plain JSON values.

    `question`: run (id, or empty: none yet), offset (number of events seen), x (one of AXES),
    parts_key (of the parts it has), log_size (bytes of log seen), wants_runs. Under a `refusal`
    strangers are watching: they get neither log nor command, which name folders of this machine.

    Raises:
        OptionError, RunError: a value that is no run, no axis or no offset.
    """
    reply: dict[str, Any] = {}
    if question.get("wants_runs"):
        reply["runs"] = feeds.list_runs()
    run_id = check_name(question.get("run", ""), "run")
    if not run_id:
        return reply
    offset, axis = question.get("offset", 0), _axis(question)
    if type(offset) is not int or offset < 0:  # True is an int, too
        raise OptionError(f"The offset must be a whole number of events; got {offset!r:.40}.")
    run = open_run(run_id)
    # The status before the events: once it says finished, all events are there to be read.
    status = current_status(run)
    with feeds.follow(run) as feed:
        reply |= _points(feed, offset, axis)
        key, parts = feed.parts_of(run, status, refusal)
        titles = {stage.name: stage.title for stage in feed.recipe_of(run).stages}
        if not refusal:
            reply |= _log_and_command(run, feed, question.get("log_size"))
    reply |= {"parts_key": key, "titles": titles}
    if question.get("parts_key") != key:
        reply["parts"] = parts
    reply["run"] = run.id
    reply["state"] = status.state
    reply["is_active"] = status.state in ACTIVE_STATES
    return reply


def read_curves(feeds: RunFeeds, question: Mapping[str, Any]) -> dict[str, Any]:
    """Return the curves of a run within a stretch of x: details of a zoom, or an earlier run.

    `question`: run, x (one of AXES), from and to (null: no end), names (null: every curve) and
    max_points of each curve.

    Raises:
        OptionError, RunError: a value that is no run, no axis, no list of names or no number.
    """
    axis, names = _axis(question), _names(question)
    limit = question.get("max_points", MAX_POINTS)
    if type(limit) is not int or not FEWEST_POINTS <= limit <= MAX_POINTS:
        raise OptionError(
            f"From {FEWEST_POINTS} to {MAX_POINTS:,} points can be asked for; got {limit!r:.40}."
        )
    run = open_run(check_name(question.get("run", ""), "run"))
    stretch = _stretch(question)
    with feeds.follow(run) as feed:
        # Drawing a whole run at full detail is what everyone asks for, so it is shared.
        is_shared = stretch is None and names is None and limit == MAX_POINTS
        found = (
            feed.whole_curves(axis)
            if is_shared
            else curves(feed.digest, axis, limit, stretch, names)
        )
        return {"run": run.id, "curves": found, "bands": feed.digest.bands(axis)}


def _axis(question: Mapping[str, Any]) -> str:
    axis = question.get("x", AXES[0])
    if axis not in AXES:
        raise OptionError(f"The x axis must be one of {', '.join(AXES)}; got {axis!r:.40}.")
    return str(axis)


def _names(question: Mapping[str, Any]) -> list[str] | None:
    names = question.get("names")
    if names is None:
        return None
    is_list = isinstance(names, list) and len(names) <= MAX_NAMES
    if not is_list or not all(isinstance(name, str) for name in names):
        raise OptionError(f"The names must be a list of at most {MAX_NAMES} curves.")
    return list(names)


def _stretch(question: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the stretch of x that is asked for; None: all of it."""
    first, last = question.get("from"), question.get("to")
    if first is None and last is None:
        return None
    low = float("-inf") if first is None else as_finite(first)
    high = float("inf") if last is None else as_finite(last)
    if low is None or high is None or low > high:
        raise OptionError(
            f"A stretch goes from a number to one that is not smaller; got {first!r:.40} "
            f"to {last!r:.40}."
        )
    return (low, high)


def _points(feed: Feed, offset: int, axis: str) -> dict[str, Any]:
    """Return the points after `offset`, or the whole (thinned) curves, and what lies along them."""
    fresh = curves_after(feed.digest, axis, offset)
    return {
        "offset": feed.digest.sequence,
        "is_whole": fresh is None,
        "curves": feed.whole_curves(axis) if fresh is None else fresh,
        **feed.lies_along(axis),
    }


def _log_and_command(run: Run, feed: Feed, seen_size: object) -> dict[str, Any]:
    """Return what only the owner may read, as plain text; the log only when its size is new."""
    size, text = feed.log_of(run)
    log = {} if size == seen_size else {"log": text}
    try:
        command = run.command_file.read_text(encoding="utf-8").strip()
    except OSError:
        command = "Not started yet."
    return {"log_size": size, "command": command, **log}
