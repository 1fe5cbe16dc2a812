"""What the terminal commands share: text of a model can never steer a terminal."""

import argparse
from pathlib import Path

import pytest

from stentor.commands import (
    model_json,
    models_at_hand,
    models_named,
    printable,
    sampling_settings,
)
from stentor.engine.sampling import SamplingSettings
from stentor.models import PAIRS
from stentor.store import ModelStore


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain café 😀\n\ttabbed", "plain café 😀\n\ttabbed"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("over\rwritten\b", "over\\x0dwritten\\x08"),
        ("\x9b31m \x7f \0", "\\x9b31m \\x7f \\x00"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_models_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert models_at_hand() == ["demo-base", "demo-big"]
    assert models_named(argparse.Namespace(model=None)) == ["demo-base", "demo-big"]
    assert models_named(argparse.Namespace(model=["a", "b"])) == ["a", "b"]


def test_settings_left_out_are_those_that_the_page_begins_with() -> None:
    """At the real pair's temperature the demo pair went round in circles in a terminal alone."""
    demo = PAIRS["demo"].sampling

    def used(*models: str, **given: float) -> dict[str, float]:
        arguments = argparse.Namespace(model=[*models] or None, **given)
        settings = sampling_settings(arguments)
        return {name: getattr(settings, name) for name in demo}

    usual = {name: getattr(SamplingSettings(), name) for name in demo}
    assert used() == used("demo-big") == used("demo-big", "demo-base") == demo != usual
    assert used(temperature=0.2) == {**demo, "temperature": 0.2}, "a flag counts for more"
    assert used("stentor-big") == used("stentor-big", "demo-big") == used("./folder") == usual


def test_a_model_is_described_with_how_it_computes(tiny_model_folder: Path) -> None:
    with ModelStore(num_threads=1, precision="fp32") as store:
        described = model_json(store.load(str(tiny_model_folder)))
    assert described["revision"].startswith("sha256:")
    wanted = {"precision": "fp32", "device": "cpu", "num_threads": 1}
    assert wanted.items() <= described.items()
