"""Widgets made from the knobs of a settings class, and checked settings made from their values.

The settings class is the only place where an option is written down. Knows no tab.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from stentor.knobs import DataclassInstance, Knob, from_json, knobs, label

Settings = TypeVar("Settings", bound=DataclassInstance)
# A slider with more stops than this cannot be set with a mouse; a number field can.
MAX_SLIDER_STOPS = 4_000
# More choices than this are easier to read in a list than side by side.
MAX_RADIO_CHOICES = 3
NO_VALUES: Mapping[str, Any] = MappingProxyType({})


def widgets_for(
    settings_class: type, *, only: Sequence[str] = (), values: Mapping[str, Any] = NO_VALUES
) -> dict[str, Component]:
    """Create one widget per knob in the present layout, by option name, in declared order.

    `only` limits the options; `values` are begun with in place of the defaults.
    """
    defaults = {item.name: item.default for item in dataclasses.fields(settings_class)}
    start = {**defaults, **values}
    return {
        name: _widget(name, option, start[name])
        for name, option in knobs(settings_class).items()
        if not only or name in only
    }


def read(
    settings_class: type[Settings], values: Sequence[Any], *, only: Sequence[str] = ()
) -> Settings:
    """Turn widget values (in the order of `widgets_for`) into checked settings.

    Raises:
        OptionError: names every value out of its range.
    """
    names = [name for name in knobs(settings_class) if not only or name in only]
    return from_json(settings_class, dict(zip(names, values, strict=True)))


def _widget(name: str, option: Knob, value: Any) -> Component:  # noqa: ANN401
    """Return the widget that suits one knob."""
    if isinstance(value, bool):
        return gr.Checkbox(value, label=label(name), info=option.help)
    if option.choices:
        kind = gr.Radio if len(option.choices) <= MAX_RADIO_CHOICES else gr.Dropdown
        return kind(list(option.choices), value=value, label=label(name), info=option.help)
    if isinstance(value, str):
        return gr.Textbox(value, label=label(name), info=option.help)
    limits = _slider_limits(option)
    if value is not None and limits:
        low, high = limits
        return gr.Slider(low, high, value, step=option.step, label=label(name), info=option.help)
    # No minimum and maximum here: our own check says more than the browser's.
    return gr.Number(
        value,
        label=label(name),
        info=option.help,
        precision=0 if value is None or isinstance(value, int) else None,
    )


def _slider_limits(option: Knob) -> tuple[float, float] | None:
    """Return the range, or None where a slider could not be set with a mouse."""
    if option.low is None or option.high is None or not option.step:
        return None
    has_room = (option.high - option.low) / option.step <= MAX_SLIDER_STOPS
    return (option.low, option.high) if has_room else None
