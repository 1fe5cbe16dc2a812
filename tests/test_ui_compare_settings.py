"""The badge and the form of the Compare tab's settings."""

from dataclasses import replace

import gradio as gr
import pytest

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.knobs import to_json
from stentor.ui.compare_settings import OPTIONS, SettingsPanel, badge, settings_updates
from stentor.ui.context import make_context

DEFAULTS = SamplingSettings()


def test_equal_settings_are_matched() -> None:
    assert "Matched" in badge(DEFAULTS, DEFAULTS)
    assert "temperature 0.5" in badge(DEFAULTS, DEFAULTS)


def test_the_form_begins_with_what_suits_the_pair() -> None:
    context = make_context("demo", is_private=False)
    with gr.Blocks():
        panel = SettingsPanel(context)
    shown = {name: getattr(widget, "value", None) for name, widget in panel.shared.items()}
    assert shown == {**to_json(DEFAULTS), **context.pair.sampling}
    assert f"temperature {context.pair.sampling['temperature']}" in panel.badge.value


def test_a_large_seed_is_shown_in_full() -> None:
    """The badge once showed seed 1298334567 as 1.29833e+09, which nobody can type in again."""
    seeded = replace(DEFAULTS, seed=1_298_334_567)
    assert "1298334567" in badge(seeded, seeded)


def test_different_settings_are_named_with_both_values() -> None:
    text = badge(DEFAULTS, replace(DEFAULTS, temperature=0.9, seed=5))
    assert "Not matched" in text
    assert "temperature 0.5 / 0.9" in text
    assert "seed 0 / 5" in text
    assert "top p" not in text


def test_updates_touch_only_the_named_options() -> None:
    updates = dict(zip(OPTIONS, settings_updates({"temperature": 0.8}), strict=True))
    assert updates["temperature"] == 0.8
    assert updates["seed"] != 0


def test_every_option_of_the_engine_has_a_control() -> None:
    assert {"top_k", "top_p", "min_p", "repetition_penalty"} <= set(OPTIONS)
    assert "min p 0.1" in badge(replace(DEFAULTS, min_p=0.1), replace(DEFAULTS, min_p=0.1))


def test_updates_refuse_what_the_knobs_refuse() -> None:
    with pytest.raises(OptionError, match="Temperature must be at most 2"):
        settings_updates({"temperature": 7})
    with pytest.raises(OptionError, match="Did you mean 'temperature'"):
        settings_updates({"temperatur": 0.7})
