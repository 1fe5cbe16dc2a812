"""The Prompts tab: browse the evaluation prompts, run a category through both models, compare.

A run belongs to the app's EvaluationRunner and to its folder on disk, not to a page: this tab reads
it again after a reload. What it shows is made in prompts_view.py.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from stentor.errors import RunError, StentorError
from stentor.evaluation_store import (
    Evaluation,
    EvaluationSettings,
    open_evaluation,
    read_results,
)
from stentor.exports import EXPORT_FORMATS
from stentor.models import find_model
from stentor.prompts import ALL, ORIGINS, categories, find_category, prompts_of
from stentor.ui import prompts_view as view
from stentor.ui.assets import read_asset
from stentor.ui.context import AppContext, Page
from stentor.ui.controls import read, widgets_for
from stentor.ui.prompts_runs import export_files, newest_of, opened, run_choices
from stentor.ui.prompts_updates import (
    MAX_SEARCH,
    choices_of,
    control_updates,
    count_line,
    detail_of,
    filtered,
    found_prompt,
    list_updates,
    prompt_for_compare,
)
from stentor.ui.shared import HIDDEN, guarded, status_line

TITLE = "Prompts"
POLL_SECONDS = 1.0
TOKEN = re.compile(r"[0-9a-f]{32}")
# What can refuse goes through the queue, without a limit: only there Gradio shows the reason.
QUEUED: dict[str, Any] = {**HIDDEN, "concurrency_limit": None}


def build(context: AppContext, page: Page) -> None:
    """Create the tab in the present layout."""
    _Prompts(context, page).wire()


class _Prompts:
    """The widgets of one page; built first, wired afterwards. Holds no visitor's state."""

    def __init__(self, context: AppContext, page: Page) -> None:
        self.context = context
        self.page = page
        self.browser = gr.HTML(js_on_load=read_asset("prompts.js"), elem_id="prompts-browser")
        self.owner = gr.State("")  # the token of this browser
        self.own = gr.State("")  # id of this browser's run, while it is going
        self.sent = gr.State("")  # what the last tick showed
        self.timer = gr.Timer(POLL_SECONDS, active=False)
        with gr.Row(elem_id="prompts-browse"):
            self._build_categories()
            self._build_list()
            with gr.Column(scale=3, min_width=320):
                self.detail = gr.HTML(js_on_load=None, elem_id="prompt-detail")
                self.send = gr.Button("Send to Compare", size="md", elem_id="send-prompt")
        self._build_runs()

    def _build_categories(self) -> None:
        everything = len(prompts_of(ALL))
        choices = [
            (f"{item.title} ({len(item.prompts)})", name) for name, item in categories().items()
        ]
        first = choices[0][1]
        with gr.Column(scale=1, min_width=220):
            self.category = gr.Radio(
                [*choices, (f"{view.category_title(ALL)} ({everything})", ALL)],
                value=first,
                label="Category",
                elem_id="prompt-category",
            )
            self.about = gr.HTML(
                view.about_category(find_category(first)), js_on_load=None, elem_id="category-about"
            )

    def _build_list(self) -> None:
        with gr.Column(scale=2, min_width=280):
            self.text = gr.Textbox(
                label="Search",
                placeholder="Words in any order",
                max_length=MAX_SEARCH,
                elem_id="prompt-search",
            )
            self.origin = gr.Radio(
                [("All", ALL), ("From the card", ORIGINS[0]), ("Written here", ORIGINS[1])],
                value=ALL,
                label="Origin",
                elem_id="prompt-origin",
            )
            found = prompts_of(str(self.category.value))
            self.prompts = gr.Radio(
                choices_of(found), value=found[0].id, label="Prompts", elem_id="prompt-list"
            )
            self.count = gr.HTML(count_line(len(found)), js_on_load=None)

    def _build_runs(self) -> None:
        with gr.Row(elem_id="prompts-actions"):
            self.run = gr.Button("Run category", variant="primary", elem_id="run-category")
            self.stop = gr.Button(
                "Stop", variant="stop", interactive=False, elem_id="stop-category"
            )
            self.seed = widgets_for(EvaluationSettings, only=("seed",))["seed"]
        self.plan = gr.HTML(js_on_load=None, elem_id="run-plan")
        self.progress = gr.HTML(js_on_load=None, elem_id="run-progress")
        with gr.Row(elem_id="prompts-results"):
            self.runs = gr.Dropdown(
                [],
                label="Run shown",
                info="Every run of this machine, newest first",
                elem_id="run-shown",
                scale=3,
            )
            self.exports = {
                suffix: gr.DownloadButton(
                    f"Export {suffix[1:].upper()}",
                    interactive=False,
                    size="md",
                    elem_id=f"export-{suffix[1:]}",
                )
                for suffix in EXPORT_FORMATS
            }
        self.scores = gr.HTML(js_on_load=None, elem_id="run-scores")

    # Wiring ---------------------------------------------------------------------------------

    def wire(self) -> None:
        """Connect every widget."""
        listed = [self.about, self.prompts, self.count]
        results = [self.runs, self.detail, self.scores, *self.exports.values()]
        controls = [self.own, self.run, self.stop, self.progress, self.timer]
        self.browser.arrive(  # a custom event of assets/prompts.js
            guarded(self._arrive),
            None,
            [self.owner, self.category, *listed, *results, *controls],
            **QUEUED,
        )
        plan = [self.category, self.page.pair]
        gr.on(None, guarded(self._plan), plan, [self.plan, self.run], **QUEUED)
        self._wire_browsing(listed, results)
        self.runs.focus(self._list_runs, self.runs, self.runs, queue=False, **QUEUED)
        self.runs.input(guarded(self._choose_run), [self.runs, self.prompts], results, **QUEUED)
        start = [self.category, self.page.pair, self.seed, self.owner, self.prompts]
        self.run.click(guarded(self._run), start, [*results, *controls], **QUEUED)
        self.stop.click(guarded(self._stop), self.own, self.progress, **QUEUED)
        self.timer.tick(
            guarded(self._tick),
            [self.own, self.runs, self.prompts, self.sent],
            [*results, *controls, self.sent],
            **QUEUED,
        )
        self.page.send(self.send.click, prompt_for_compare, [self.prompts, self.runs])

    def _wire_browsing(self, listed: Sequence[Component], results: Sequence[Component]) -> None:
        browse = [self.category, self.text, self.origin, self.prompts]
        self.category.input(guarded(self._choose_category), browse, [*listed, *results], **QUEUED)
        gr.on(
            [self.text.change, self.origin.input],  # `input` of a textbox misses what is pasted
            guarded(filtered),
            [*browse, self.runs],
            [*listed, self.detail],
            trigger_mode="always_last",
            **QUEUED,
        )
        self.prompts.input(guarded(detail_of), [self.prompts, self.runs], self.detail, **QUEUED)

    # Handlers -------------------------------------------------------------------------------

    def _arrive(self, event: gr.EventData) -> list[Any]:
        """Show this browser's running evaluation again, or the newest one of the category."""
        token = str(event.token)
        owner = token if TOKEN.fullmatch(token) else secrets.token_hex(16)
        own = opened(self.context.evaluations.running(owner))
        category = own.settings.category if own else next(iter(categories()))
        prompt, updates = list_updates(category, "", ALL, None)
        return [
            owner,
            category,
            *updates,
            *self._results(own or newest_of(category), prompt),
            *control_updates(own),
        ]

    def _plan(self, category: str, pair: tuple[str, str]) -> list[Any]:
        """Say what the button would do."""
        left, right = (self._title(reference) for reference in pair)
        count = len(prompts_of(category))
        text = (
            f"{view.category_title(category)}: {count} prompts through {left} and {right}, both "
            "with the settings of the category and the seed above."
        )
        return [status_line(text), "Run all categories" if category == ALL else "Run category"]

    def _title(self, reference: str) -> str:
        try:
            return find_model(reference, allow_folders=self.context.allow_folders).title
        except StentorError:  # such as a checkpoint that was deleted; Run will say so
            return reference

    def _choose_category(
        self, category: str, text: str, origin: str, prompt: str | None
    ) -> list[Any]:
        chosen, updates = list_updates(category, text, origin, prompt)
        return [*updates, *self._results(newest_of(category), chosen)]

    def _list_runs(self, run: str | None) -> Any:  # noqa: ANN401
        return gr.Dropdown(choices=run_choices(opened(run)))

    def _choose_run(self, run: str | None, prompt: str | None) -> list[Any]:
        return self._results(opened(run), prompt)

    def _run(
        self,
        category: str,
        pair: tuple[str, str],
        seed: float | None,
        owner: str,
        prompt: str | None,
    ) -> list[Any]:
        seed_alone = read(EvaluationSettings, [seed], only=("seed",))
        settings = replace(seed_alone, category=category, models=(pair[0], pair[1]))
        owner = owner or secrets.token_hex(16)  # empty only after a restart of the app
        started = self.context.evaluations.start(
            settings, owner, allow_folders=self.context.allow_folders
        )
        evaluation = open_evaluation(started)
        return [*self._results(evaluation, prompt), *control_updates(evaluation)]

    def _stop(self, own: str) -> str:
        """Stop within one token; the next tick finds the run at its end and says so."""
        if not own:
            raise RunError("No run of this browser is going.")
        self.context.evaluations.stop(own)
        return status_line("Stopping. What is finished is kept.")

    def _tick(self, own: str, run: str | None, prompt: str | None, sent: str) -> list[Any]:
        """Show what has come; leave alone what has not changed, so that nothing jumps."""
        unchanged: list[Any] = [gr.skip()] * (3 + len(EXPORT_FORMATS))
        try:
            evaluation = open_evaluation(own)
        except RunError:  # the app was restarted, or somebody deleted the folder: stop asking
            return [*unchanged, *control_updates(None), ""]
        controls = control_updates(evaluation)
        if evaluation.state != "running":
            shown = evaluation if run == own else opened(run)
            return [*self._results(shown, prompt), *controls, ""]
        if run != own:
            return [*unchanged, *controls, sent]
        results = read_results(evaluation)
        detail = view.prompt_detail(found_prompt(prompt), evaluation, results)
        scores = view.score_table(evaluation, results)
        if detail + scores != sent:
            unchanged[1:3] = detail, scores
        return [*unchanged, *controls, detail + scores]

    def _results(self, evaluation: Evaluation | None, prompt: str | None) -> list[Any]:
        """Return updates of: menu of runs, detail, scores, one download per format."""
        results = read_results(evaluation) if evaluation else []
        files = export_files(evaluation, Path(self.exports[".csv"].GRADIO_CACHE))
        shown = evaluation.id if evaluation else None
        return [
            gr.Dropdown(choices=run_choices(evaluation), value=shown),
            view.prompt_detail(found_prompt(prompt), evaluation, results),
            view.score_table(evaluation, results),
            *(gr.DownloadButton(value=file, interactive=bool(file)) for file in files.values()),
        ]
