"""History entries travel to a browser and come back; what comes back is not trusted."""

import json
from typing import Any

import pytest

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.ui.compare_generation import Output
from stentor.ui.compare_history import history_entry, restored

SETTINGS = SamplingSettings(seed=11, temperature=0.7)
OUTPUT = Output("demo-base", "Once", (1, 2), (3,), " upon", SETTINGS, 0)
VIEW: dict[str, Any] = {"title": "Demo base", "prompt": "Once", "text": " upon", "state": "done"}


def entry() -> dict[str, Any]:
    return history_entry({"left": VIEW, "right": VIEW}, {"left": OUTPUT, "right": None})


def test_an_entry_comes_back_as_it_was() -> None:
    prompt, settings, views = restored(json.dumps(entry()))
    assert prompt == "Once"
    assert settings["seed"] == 11
    assert [view["text"] for view in views] == [" upon", " upon"]


@pytest.mark.parametrize(
    "damage",
    [
        "not json",
        "[]",
        json.dumps({"prompt": "x"}),
        json.dumps({**entry(), "sides": [1, 2]}),
        json.dumps({**entry(), "sides": []}),
        json.dumps({**entry(), "settings": {"temperature": "hot"}}),
        json.dumps({**entry(), "settings": {"temperature": float("nan")}}),
        "x" * 300_000,
    ],
)
def test_a_damaged_entry_is_refused(damage: str) -> None:
    with pytest.raises(OptionError):
        restored(damage)
