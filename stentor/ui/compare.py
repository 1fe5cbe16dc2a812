"""The Compare tab: one prompt, two models, both streaming; settings, badge, history.

This file arranges widgets and wires them; what happens between a button and two streams is in
compare_generation.py, the settings of both sides in compare_settings.py.
"""

import functools
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import gradio as gr

from stentor.errors import PromptError, StentorError
from stentor.prompts import categories
from stentor.ui.assets import read_asset
from stentor.ui.compare_desk import SIDES, Desk
from stentor.ui.compare_generation import Output, SideRequest, generate, model_heading
from stentor.ui.compare_history import history_entry, restored
from stentor.ui.compare_prompt import count_line
from stentor.ui.compare_settings import OPTIONS, SettingsPanel, settings_updates
from stentor.ui.context import AppContext, CompareRequest, Page
from stentor.ui.shared import HIDDEN, escape, guarded, status_line

TITLE = "Compare"
PANE = """
<section class="pane" data-state="idle" aria-live="off">
  <header><b class="pane-title"></b><span class="pane-meta"></span></header>
  <div class="pane-body" tabindex="0" role="region" aria-label="Generated text"
    ><span class="pane-prompt"></span><span class="pane-text"></span></div>
  <p class="pane-message" hidden role="status"></p>
  <footer class="pane-figures"></footer>
</section>
"""
# Not a gr.Accordion: what is inside a closed one is not mounted and would miss entries.
HISTORY = """
<details class="history-box"><summary>History of this browser</summary>
<p class="history-empty">Nothing yet. What you generate is kept here, in this browser only.</p>
<ol class="history"></ol>
<button type="button" class="history-clear" hidden>Forget all</button>
</details>
"""
LONG: dict[str, Any] = {**HIDDEN, "concurrency_limit": None}
# Many updates: their values are drawn as they are, without a turn of Gradio's threads for each.
STREAM: dict[str, Any] = {**LONG, "postprocess": False}


def build(context: AppContext, page: Page) -> None:
    """Create the tab in the present layout."""
    _Compare(context, page).wire()


class _Compare:
    """The widgets of one page; built first, wired afterwards. Holds no visitor's state."""

    def __init__(self, context: AppContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.desk = Desk()
        self.prompt = gr.Textbox(
            label="Prompt",
            info="Text to continue. These are base models: begin a sentence, do not ask. "
            "Shift+Enter generates.",
            lines=3,
            max_lines=12,
            autofocus=True,
            elem_id="prompt",
        )
        self.tokens = gr.HTML(status_line("0 of 512 tokens"), elem_id="prompt-tokens")
        with gr.Row(elem_id="compare-actions"):
            self.generate = gr.Button("Generate", variant="primary", size="md", elem_id="generate")
            self.stop = gr.Button("Stop", variant="stop", size="md", elem_id="stop")
            self.go_on = gr.Button("Continue", size="md", elem_id="continue")
            self.again = gr.Button("Again with a new seed", size="md", elem_id="regenerate")
        with gr.Row(elem_id="chips"):
            self.chips = [
                (gr.Button(category.title, size="sm", min_width=80), category)
                for category in categories().values()
            ]
        self.settings = SettingsPanel(context)
        with gr.Row(elem_id="panes", equal_height=True):
            self.panes = {side: self._pane(side) for side in SIDES}
        self.outputs = {side: gr.State(None) for side in SIDES}
        self.shown = gr.State(None)  # the pair (left, right) that the panes are about
        self.history = gr.HTML(
            None, html_template=HISTORY, js_on_load=read_asset("history.js"), elem_id="history"
        )

    def _pane(self, side: str) -> tuple[gr.HTML, gr.Button]:
        with gr.Column(min_width=320):
            pane = gr.HTML(
                None, html_template=PANE, js_on_load=read_asset("pane.js"), elem_id=f"pane-{side}"
            )
            return pane, gr.Button(f"Stop {side}", size="sm", elem_id=f"stop-{side}")

    # Wiring ---------------------------------------------------------------------------------

    def wire(self) -> None:
        """Connect every widget."""
        panes = [self.panes[side][0] for side in SIDES]
        kept = [self.outputs[side] for side in SIDES]
        results = [*panes, *kept, self.history]
        form = [self.prompt, self.page.pair, *self.settings.inputs]
        gr.on(
            [self.generate.click, self.prompt.submit],
            guarded(self._generate),
            form,
            results,
            **STREAM,
        )
        self.go_on.click(guarded(self._continue), [*kept, *form], results, **STREAM)
        rolled = self.again.click(
            self.settings.new_seeds, None, self.settings.seeds, queue=False, **HIDDEN
        )
        rolled.then(guarded(self._generate), form, results, **STREAM)
        self.stop.click(self._stop, None, None, queue=False, **HIDDEN)
        for side in SIDES:
            self.panes[side][1].click(self._stop_side(side), None, None, queue=False, **HIDDEN)
        self._wire_prompt()
        self.settings.wire(self.page)
        # No trigger named: on page load, and whenever the pair changes.
        shown = [self.shown, *panes, *kept]
        gr.on(None, guarded(self._show_pair), [self.page.pair, self.shown], shown, **LONG)
        self.page.on_request(self._open, [self.prompt, *self.settings.shared.values()])
        restored = [self.prompt, self.page.pair, *shown, *self.settings.restorable]
        self.history.restore(  # a custom event of assets/history.js
            guarded(self._restore), self.page.pair, restored, **LONG
        )

    def _wire_prompt(self) -> None:
        """Count tokens while typing; let a chip fill in an example of its category."""
        gr.on(
            [self.prompt.change, self.settings.overflow.change, self.page.pair.change],
            self._count,
            [self.prompt, self.page.pair, self.settings.overflow],
            self.tokens,
            trigger_mode="always_last",
            **LONG,
        )
        shared = list(self.settings.shared.values())
        for chip, category in self.chips:
            values = {
                "temperature": category.temperature,
                "max_new_tokens": category.max_new_tokens,
            }
            from_card = [prompt for prompt in category.prompts if prompt.origin == "card"]
            example = (from_card or category.prompts)[0]
            fill = functools.partial(filled, example.text, values)
            chip.click(fill, None, [self.prompt, *shared], queue=False, **HIDDEN)

    # Handlers -------------------------------------------------------------------------------

    async def _generate(
        self,
        request: gr.Request,
        prompt: str,
        pair: tuple[str, str],
        *values: Any,  # noqa: ANN401
    ) -> AsyncIterator[list[Any]]:
        if not prompt:
            raise PromptError("The prompt is empty. Write a few words for the models to continue.")
        overflow, settings = self.settings.read(values)
        requests = {
            side: SideRequest(reference, prompt, overflow, settings[side])
            for side, reference in zip(SIDES, pair, strict=True)
        }
        async for update in self._stream(requests, request):
            yield update

    async def _continue(
        self,
        request: gr.Request,
        left: Output | None,
        right: Output | None,
        _prompt: str,
        _pair: tuple[str, str],
        *values: Any,  # noqa: ANN401
    ) -> AsyncIterator[list[Any]]:
        """Go on after the last outputs with their own settings, for as many tokens as set now."""
        _, chosen = self.settings.read(values)
        requests = {}
        for side, output in zip(SIDES, (left, right), strict=True):
            if output is not None:
                limit = chosen[side].max_new_tokens
                settings = replace(output.settings, max_new_tokens=limit)
                requests[side] = SideRequest(
                    output.reference, output.prompt, "refuse", settings, earlier=output
                )
        if not requests:
            raise PromptError("There is nothing to continue yet. Press Generate first.")
        async for update in self._stream(requests, request):
            yield update

    async def _stream(
        self, requests: dict[str, SideRequest], request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Yield updates of panes, kept outputs and history while both sides generate."""
        session = request.session_hash or "no session"
        updates = generate(
            self.context.store,
            self.desk,
            session,
            requests,
            allow_folders=self.context.allow_folders,
        )
        shown: dict[str, Any] = {}
        async with aclosing(updates):
            async for views, outputs in updates:
                shown.update(views)
                # No gr.skip() where it can be helped: for it Gradio builds the component anew,
                # which costs more than all else. Only what differs is sent to the browser.
                yield [
                    *(shown.get(side, gr.skip()) for side in SIDES),
                    *(outputs[side] if side in outputs else gr.skip() for side in SIDES),
                    history_entry(views, outputs) if any(outputs.values()) else None,
                ]

    def _stop(self, request: gr.Request) -> None:
        self.desk.stop(request.session_hash or "no session")

    def _stop_side(self, side: str) -> Callable[[gr.Request], None]:
        """Return the handler of one side's Stop; Gradio passes the request by its annotation."""

        def stop(request: gr.Request) -> None:
            self.desk.stop(request.session_hash or "no session", (side,))

        return stop

    def _count(self, prompt: str, pair: tuple[str, str], overflow: str) -> str:
        allow_folders = self.context.allow_folders
        return count_line(self.context.store, prompt, pair, overflow, allow_folders=allow_folders)

    def _show_pair(
        self, request: gr.Request, pair: tuple[str, str], shown: tuple[str, str] | None
    ) -> list[Any]:
        """Empty the panes for another pair, ending what still runs for the one before."""
        if shown is not None and tuple(pair) == tuple(shown):
            return [gr.skip()] * (1 + 2 * len(SIDES))
        self._stop(request)
        return [tuple(pair), *(self._idle_view(reference) for reference in pair), None, None]

    def _idle_view(self, reference: str) -> dict[str, Any]:
        """Return an empty pane that says which model will answer."""
        try:
            loaded = self.context.store.load(reference, allow_folders=self.context.allow_folders)
        except StentorError as error:
            return {"title": reference, "state": "error", "message": str(error)}
        return {**model_heading(loaded), "state": "idle"}

    def _open(self, request: CompareRequest | None) -> list[Any]:
        """Fill in what another tab asked for."""
        if request is None:
            return [gr.skip()] * (1 + len(OPTIONS))
        prompt = gr.skip() if request.prompt is None else request.prompt
        return [prompt, *settings_updates(dict(request.settings))]

    def _restore(
        self, request: gr.Request, pair: tuple[str, str], event: gr.EventData
    ) -> list[Any]:
        """Show an entry of the history again; it comes from a browser, so all of it is checked."""
        entry = restored(str(event.entry))
        self._stop(request)
        chosen = tuple(map(self._loadable, entry.references, pair))
        settings = self.settings.restored(entry.settings, entry.own)
        # The panes are about the restored pair already, so that its change does not empty them.
        return [entry.prompt, chosen, chosen, *entry.views, None, None, *settings]

    def _loadable(self, reference: str, otherwise: str) -> str:
        """Return the model of a history entry, or `otherwise` where it is gone."""
        if not reference:
            return otherwise
        try:
            self.context.store.load(reference, allow_folders=self.context.allow_folders)
        except StentorError as error:
            gr.Warning(escape(str(error)), title="A model of this entry is gone")
            return otherwise
        return reference


def filled(prompt: str, values: dict[str, Any]) -> list[Any]:
    """Return updates of the prompt and the shared settings."""
    return [prompt, *settings_updates(values)]
