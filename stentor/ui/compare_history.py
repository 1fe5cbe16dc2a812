"""Entries of the history that a browser keeps for itself: made here, checked on their return."""

import json
import time
from dataclasses import dataclass
from typing import Any

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.knobs import from_json, to_json
from stentor.ui.compare_desk import SIDES
from stentor.ui.compare_generation import Output

MAX_ENTRY_CHARACTERS = 400_000
VIEW_FIELDS = ("title", "meta", "text", "figures", "message")


@dataclass(frozen=True)
class Restored:
    """An entry as it came back from a browser, checked. One item a side: left, right."""

    prompt: str
    settings: SamplingSettings  # shared
    references: tuple[str, str]  # empty where that side had no output
    own: tuple[SamplingSettings | None, SamplingSettings | None]  # None: the shared ones
    views: tuple[dict[str, Any], dict[str, Any]]


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
    return {
        **{name: view.get(name, "") for name in VIEW_FIELDS},
        "reference": output.reference if output else "",
        "settings": to_json(output.settings) if output else None,
    }


def restored(entry: str) -> Restored:
    """Check an entry as a browser sent it.

    Raises:
        OptionError: it is no entry, or a setting in it is not allowed.
    """
    if len(entry) > MAX_ENTRY_CHARACTERS:
        raise OptionError("This entry of the history is too large to be opened.")
    try:
        values = json.loads(entry)
        prompt = str(values["prompt"])
        shared = from_json(SamplingSettings, dict(values["settings"]))
        left, right = values["sides"]
        return Restored(
            prompt=prompt,
            settings=shared,
            references=(str(left["reference"]), str(right["reference"])),
            own=(_own(left, shared), _own(right, shared)),
            views=(_view(left, prompt), _view(right, prompt)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"This entry of the history is damaged ({error!r}).") from error


def _own(side: dict[str, Any], shared: SamplingSettings) -> SamplingSettings | None:
    if side["settings"] is None:
        return None
    settings = from_json(SamplingSettings, dict(side["settings"]))
    return None if settings == shared else settings


def _view(side: dict[str, Any], prompt: str) -> dict[str, Any]:
    view = {name: str(side.get(name) or "") for name in VIEW_FIELDS}
    return {**view, "prompt": prompt, "state": "done"}
