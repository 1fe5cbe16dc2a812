"""The settings of the Compare tab: models, shared sampling options, and each side's own ones.

By default both sides run under the same settings and seed. A side may be given its own; the badge
then says that the pair is no longer matched, and in what.
"""

import random
from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from stentor.engine.sampling import SamplingSettings
from stentor.errors import StentorError
from stentor.knobs import from_json, knobs, to_json
from stentor.store import OVERFLOW
from stentor.ui.compare_desk import SIDES
from stentor.ui.context import AppContext, Page
from stentor.ui.controls import read, widgets_for
from stentor.ui.shared import HIDDEN, escape, guarded, status_line

OPTIONS = tuple(knobs(SamplingSettings))
SEED_LIMIT = 2**32


class SettingsPanel:
    """The accordion of settings and the badge; `inputs` is what `read` takes, in order."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        start = from_json(SamplingSettings, dict(context.pair.sampling))
        self.badge = gr.HTML(badge(start, start), elem_id="match-badge")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            with gr.Row():
                self.models = {side: self._model_menu(side) for side in SIDES}
            with gr.Row(elem_classes=["option-grid"]):
                self.shared = widgets_for(SamplingSettings, values=context.pair.sampling)
                self.dice = gr.Button("Roll the seed", size="sm", elem_id="dice")
            self.overflow = gr.Radio(
                [(text, name) for name, text in OVERFLOW.items()],
                value=next(iter(OVERFLOW)),
                label="A prompt longer than the context",
            )
            with gr.Row():
                own = [self._own_settings(side) for side in SIDES]
        self.own_flags = {side: own[index][0] for index, side in enumerate(SIDES)}
        self.own = {side: own[index][1] for index, side in enumerate(SIDES)}
        self.own_groups = {side: own[index][2] for index, side in enumerate(SIDES)}

    def _model_menu(self, side: str) -> gr.Dropdown:
        reference = getattr(self.context.pair, side)
        return gr.Dropdown(
            self.choices(reference),
            value=reference,
            label=f"Model on the {side}",
            info="Known models, checkpoints of your runs"
            + (", or the path of a model folder." if self.context.allow_folders else "."),
            allow_custom_value=self.context.allow_folders,
            elem_id=f"model-{side}",
        )

    def _own_settings(self, side: str) -> tuple[gr.Checkbox, dict[str, Component], gr.Row]:
        with gr.Column(min_width=320):
            flag = gr.Checkbox(
                False, label=f"Own settings on the {side}", elem_id=f"own-{side}", container=False
            )
            with gr.Row(visible=False, elem_classes=["option-grid"]) as group:
                widgets = widgets_for(SamplingSettings)
        return flag, widgets, group

    @property
    def inputs(self) -> list[Component]:
        """Return every widget that decides how a generation goes."""
        own = [
            widget for side in SIDES for widget in (self.own_flags[side], *self.own[side].values())
        ]
        return [self.overflow, *self.shared.values(), *own]

    @property
    def seeds(self) -> list[Component]:
        """Return the seed widgets: the shared one, then each side's."""
        return [self.shared["seed"], *(self.own[side]["seed"] for side in SIDES)]

    def read(self, values: Sequence[Any]) -> tuple[str, dict[str, SamplingSettings]]:
        """Return (what to do with a long prompt, settings by side) from the values of `inputs`.

        Raises:
            OptionError: names every value out of its range.
        """
        overflow, *rest = values
        count = len(OPTIONS)
        shared = read(SamplingSettings, rest[:count])
        settings = {}
        for index, side in enumerate(SIDES):
            start = count + index * (count + 1)
            has_own, own = rest[start], rest[start + 1 : start + 1 + count]
            settings[side] = read(SamplingSettings, own) if has_own else shared
        return str(overflow), settings

    def choices(self, *chosen: str) -> list[tuple[str, str]]:
        """Return (title, reference) of every model that can be loaded now, and what is chosen."""
        ready = [
            (model.spec.title, model.spec.name)
            for model in self.context.store.available()
            if model.is_ready
        ]
        known = {reference for _, reference in ready}
        return ready + [(name, name) for name in chosen if name not in known]

    def new_seeds(self) -> list[int]:
        """Return one new seed for all seed widgets: a matched pair stays matched."""
        return [random.randrange(SEED_LIMIT)] * (1 + len(SIDES))

    @property
    def restorable(self) -> list[Block]:
        """Return what `restored` updates: shared options, then flag, group and options by side."""
        blocks: list[Block] = list(self.shared.values())
        for side in SIDES:
            blocks += [self.own_flags[side], self.own_groups[side], *self.own[side].values()]
        return blocks

    def restored(
        self, shared: SamplingSettings, own: Sequence[SamplingSettings | None]
    ) -> list[Any]:
        """Return updates of `restorable`; None: that side takes the shared settings."""
        updates = list(to_json(shared).values())
        for settings in own:
            has_own = settings is not None
            values = to_json(settings or shared).values()
            updates += [has_own, gr.Row(visible=has_own), *values]
        return updates

    # Wiring ---------------------------------------------------------------------------------

    def wire(self, page: Page) -> None:
        """Connect menus, dice, own settings and the badge."""
        self.dice.click(self.new_seeds, None, self.seeds, queue=False, **HIDDEN)
        menus = [self.models[side] for side in SIDES]
        for menu in menus:
            menu.focus(self._refresh, page.pair, menus, queue=False, **HIDDEN)
            menu.input(
                guarded(self._choose),
                [page.pair, *menus],
                [page.pair, *menus],
                concurrency_limit=None,
                **HIDDEN,
            )
        page.pair.change(self._show_pair, page.pair, menus, **HIDDEN)
        for side in SIDES:
            self.own_flags[side].input(
                self._toggle,
                [self.own_flags[side], *self.shared.values()],
                [self.own_groups[side], *self.own[side].values()],
                queue=False,
                **HIDDEN,
            )
        changes = [widget.change for widget in self.inputs[1:]]  # type: ignore[attr-defined]
        gr.on(
            changes,
            self._badge,
            self.inputs,
            self.badge,
            queue=False,
            trigger_mode="always_last",
            **HIDDEN,
        )

    def _refresh(self, pair: tuple[str, str]) -> list[Any]:
        """Look again which models can be loaded; a run may have finished meanwhile."""
        choices = self.choices(*pair)
        return [gr.Dropdown(choices=choices) for _ in SIDES]

    def _show_pair(self, pair: tuple[str, str]) -> list[Any]:
        choices = self.choices(*pair)
        return [gr.Dropdown(choices=choices, value=reference) for reference in pair]

    def _choose(self, pair: tuple[str, str], left: str, right: str) -> list[Any]:
        """Load what was chosen; where that fails, say why and keep what was there."""
        chosen = []
        for before, reference in zip(pair, (left, right), strict=True):
            try:
                if reference != before:
                    self.context.store.load(
                        str(reference or ""), allow_folders=self.context.allow_folders
                    )
                chosen.append(str(reference))
            except StentorError as error:
                gr.Warning(escape(str(error)), title="This model cannot be loaded")
                chosen.append(before)
        return [tuple(chosen), *chosen]

    def _toggle(self, has_own: bool, *shared: Any) -> list[Any]:  # noqa: ANN401
        """Show a side's own settings, beginning with the shared values."""
        return [gr.Row(visible=has_own), *shared]

    def _badge(self, *values: Any) -> str:  # noqa: ANN401
        try:
            _, settings = self.read(values)
        except StentorError as error:
            return status_line(str(error), "error")
        return badge(settings["left"], settings["right"])


def badge(left: SamplingSettings, right: SamplingSettings) -> str:
    """Return the line that says whether both sides run under the same settings."""
    ours, theirs = to_json(left), to_json(right)
    differing = [
        f"{name.replace('_', ' ')} {ours[name]} / {theirs[name]}"
        for name in ours
        if ours[name] != theirs[name]
    ]
    if differing:
        return status_line("Not matched: " + ", ".join(differing) + " (left / right)", "warning")
    shown = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in ours.items())
    return status_line(f"Matched: {shown}", "good")


def settings_updates(values: dict[str, Any]) -> list[Any]:
    """Return widget updates for some sampling options; unknown or bad values are refused.

    Raises:
        OptionError: an unknown option, or a value out of its range.
    """
    checked = to_json(from_json(SamplingSettings, values))
    return [checked[name] if name in values else gr.skip() for name in OPTIONS]
