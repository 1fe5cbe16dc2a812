"""Entries of the history that a browser keeps for itself: made here, checked on their return."""

import json
import time
from typing import Any

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.knobs import from_json, to_json
from stentor.ui.compare_generation import SIDES, Output

MAX_ENTRY_CHARACTERS = 200_000
VIEW_FIELDS = ("title", "meta", "prompt", "text", "figures", "message")


def history_entry(
    views: dict[str, dict[str, Any]], outputs: dict[str, Output | None]
) -> dict[str, Any]:
    """Return what a browser remembers of one finished generation."""
    first = next(output for output in outputs.values() if output is not None)
    return {
        "time": time.time(),
        "prompt": first.prompt,
        "settings": to_json(first.settings),
        "sides": [_side(views.get(side, {}), outputs.get(side)) for side in SIDES],
    }


def _side(view: dict[str, Any], output: Output | None) -> dict[str, Any]:
    settings = to_json(output.settings) if output else None
    return {**{name: view.get(name, "") for name in VIEW_FIELDS}, "settings": settings}


def restored(entry: str) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Return (prompt, settings, pane data of both sides) from an entry as a browser sent it.

    Raises:
        OptionError: it is no entry, or a setting in it is not allowed.
    """
    if len(entry) > MAX_ENTRY_CHARACTERS:
        raise OptionError("This entry of the history is too large to be opened.")
    try:
        values = json.loads(entry)
        settings = to_json(from_json(SamplingSettings, dict(values["settings"])))
        views = [
            {**{name: str(side.get(name) or "") for name in VIEW_FIELDS}, "state": "done"}
            for side in values["sides"]
        ]
        left, right = views
        return str(values["prompt"]), settings, [left, right]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"This entry of the history is damaged ({error!r}).") from error
