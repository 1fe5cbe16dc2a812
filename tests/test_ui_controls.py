"""Widgets made from knobs."""

from dataclasses import dataclass

import gradio as gr
import pytest

from stentor.errors import OptionError
from stentor.knobs import knob
from stentor.ui.controls import read, widgets_for


@dataclass(frozen=True)
class Example:
    """One knob of each sort."""

    temperature: float = knob(0.5, low=0.0, high=2.0, step=0.05, help="0 is greedy")
    max_new_tokens: int = knob(80, low=1, high=512, step=1, help="Length")
    learning_rate: float = knob(2e-4, low=1e-8, high=1.0, step=1e-5, help="Peak")
    seed: int | None = knob(None, low=0, high=10, help="Empty: a new one each time")
    is_greedy: bool = knob(False, help="No dice")
    mode: str = knob("steps", choices=("steps", "tokens"), help="What counts")
    place: str = knob("a", choices=("a", "b", "c", "d"), help="Where")


def test_each_knob_gets_the_widget_that_suits_it() -> None:
    with gr.Blocks():
        widgets = widgets_for(Example)
    kinds = {name: type(widget) for name, widget in widgets.items()}
    assert kinds == {
        "temperature": gr.Slider,
        "max_new_tokens": gr.Slider,
        "learning_rate": gr.Number,
        "seed": gr.Number,
        "is_greedy": gr.Checkbox,
        "mode": gr.Radio,
        "place": gr.Dropdown,
    }
    slider = widgets["temperature"]
    assert isinstance(slider, gr.Slider)
    assert (slider.minimum, slider.maximum, slider.step, slider.value) == (0.0, 2.0, 0.05, 0.5)
    assert (slider.label, slider.info) == ("Temperature", "0 is greedy")


def test_a_part_keeps_the_declared_order() -> None:
    with gr.Blocks():
        widgets = widgets_for(Example, only=("seed", "temperature"))
    assert list(widgets) == ["temperature", "seed"]


def test_a_form_can_begin_with_other_values_than_the_defaults() -> None:
    with gr.Blocks():
        widgets = widgets_for(Example, values={"temperature": 0.8})
    slider, mode = widgets["temperature"], widgets["mode"]
    assert isinstance(slider, gr.Slider) and isinstance(mode, gr.Radio)
    assert (slider.value, mode.value) == (0.8, "steps")


def test_values_become_checked_settings() -> None:
    """A browser sends 80.0 for 80 and 1 for 1.0."""
    settings = read(Example, [1, 80.0, 0.1, None, True, "tokens", "b"])
    assert settings == Example(1.0, 80, 0.1, None, True, "tokens", "b")
    assert isinstance(settings.max_new_tokens, int)
    assert read(Example, [0.7], only=("temperature",)).temperature == 0.7


def test_every_bad_value_is_named() -> None:
    with pytest.raises(OptionError, match=r"Temperature must be at most 2.*Mode must be one of"):
        read(Example, [9.0, 80, 0.1, None, False, "never", "a"])
