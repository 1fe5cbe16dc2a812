"""History entries travel to a browser and come back; what comes back is not trusted."""

import json
from dataclasses import replace
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
    back = restored(json.dumps(entry()))
    assert back.prompt == "Once"
    assert back.settings == SETTINGS
    assert back.references == ("demo-base", "")
    assert back.own == (None, None)
    assert [view["text"] for view in back.views] == [" upon", " upon"]
    assert [view["prompt"] for view in back.views] == ["Once", "Once"]


def test_a_side_with_its_own_settings_gets_them_back() -> None:
    """Opening an entry once restored the shared settings only, so Generate gave another text."""
    warmer = replace(SETTINGS, temperature=1.2)
    other = replace(OUTPUT, settings=warmer)
    unmatched = history_entry({"left": VIEW, "right": VIEW}, {"left": OUTPUT, "right": other})
    assert restored(json.dumps(unmatched)).own == (None, warmer)


def test_an_entry_from_before_an_option_existed_means_its_default() -> None:
    """Browsers keep entries for months; those without min-p were generated without it."""
    old = entry()
    for settings in (old["settings"], old["sides"][0]["settings"]):
        del settings["min_p"]
    back = restored(json.dumps(old))
    assert back.settings == SETTINGS and back.settings.min_p == 0.0
    assert back.own == (None, None)


def test_an_entry_with_the_longest_prompt_can_be_opened_again() -> None:
    long = replace(OUTPUT, prompt="x" * 100_000)
    outputs: dict[str, Output | None] = {"left": long, "right": long}
    assert restored(json.dumps(history_entry({}, outputs))).prompt == long.prompt


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
        "x" * 500_000,
    ],
)
def test_a_damaged_entry_is_refused(damage: str) -> None:
    with pytest.raises(OptionError):
        restored(damage)
