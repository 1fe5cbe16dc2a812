"""The planner of the Training tab: recipes as connected cards, edited, checked, rehearsed, started.

One `gr.HTML` whose scripts (assets/planner*.js) hold the draft and ask the server functions here
about every change; the server keeps nothing of a draft. Files come through Gradio's own upload.
"""

import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from stentor.errors import StentorError
from stentor.ui.assets import read_asset
from stentor.ui.context import AppContext
from stentor.ui.shared import HIDDEN, escape, file_size, guarded
from stentor.ui.train_actions import check_name
from stentor.ui.train_launch import Launcher
from stentor.ui.train_plan import Rules
from stentor.ui.train_uploads import MAX_FILE_BYTES, TEXT_KINDS, save_texts

SCRIPTS = (
    "planner_draft.js",
    "planner_fields.js",
    "planner_sources.js",
    "planner_cards.js",
    "planner_report.js",
    "planner_jobs.js",
    "planner_view.js",
    "planner_editor.js",
    "planner.js",
)
PLANNER = """
<div class="planner" data-state="loading">
  <div class="planner-bar">
    <label>Recipe <select data-part="presets"></select></label>
    <label data-part="past">Clone <select data-part="runs"></select></label>
    <span class="planner-tools">
      <button type="button" class="plain-button" data-action="undo">Undo</button>
      <button type="button" class="plain-button" data-action="restart">Start over</button>
      <button type="button" class="plain-button" data-action="load">Load JSON</button>
      <button type="button" class="plain-button" data-action="save">Save JSON</button>
    </span>
  </div>
  <div class="planner-about">
    <p data-part="purpose"></p>
    <details data-part="notes-box"><summary>About this recipe</summary>
      <ul data-part="notes"></ul></details>
  </div>
  <ol class="plan-cards" data-part="cards" aria-label="Pipeline; Alt and an arrow key moves a stage,
    Delete drops it"></ol>
  <div class="plan-kinds" data-part="kinds" hidden></div>
  <p class="plan-totals"><span data-part="totals"></span>
    <span class="status-line" role="status" data-part="news"></span></p>
  <section class="plan-editor" aria-label="Options" data-part="editor"></section>
  <section class="plan-launch" id="start-row" aria-label="Check and start">
    <ul class="plan-problems" data-part="problems" aria-label="Problems"></ul>
    <div class="plan-command" id="command"><span class="field-title">Exact command</span>
      <div class="command-line"><code data-part="command"></code>
        <button type="button" class="plain-button" data-action="copy">Copy</button></div>
      <p class="field-help" data-part="command-help"></p></div>
    <p class="status-line" data-kind="warning" data-part="refusal" hidden></p>
    <div class="plan-report" data-part="report" hidden></div>
  </section>
  <div class="plan-dock" data-part="buttons">
    <div class="plan-buttons">
      <button type="button" class="plain-button primary" data-action="start">Start</button>
      <button type="button" class="plain-button primary" data-action="start-anyway" hidden>Start
        anyway</button>
      <button type="button" class="plain-button" data-action="check">Check</button>
      <button type="button" class="plain-button" data-action="rehearse">Rehearse 20 steps</button>
      <button type="button" class="plain-button" data-action="halt" hidden>Stop</button>
      <span class="status-line" role="status" data-part="job"></span></div>
    <p class="field-help" data-part="busy"></p>
  </div>
</div>
"""
ABOUT_TEXT = (
    f"{', '.join(TEXT_KINDS)}, at most {file_size(MAX_FILE_BYTES)} each; .jsonl and .parquet need "
    "a column called text, or the one you name. The files stay on the machine that runs the "
    "playground. Choose them in a stage, as a text of the kind Your own files."
)


def build(context: AppContext, monitor: gr.HTML) -> None:
    """Create the planner in the present layout.

    `monitor` is told which run was started, and tells which one to clone.
    """
    rules = Rules(context.training_refusal, context.allow_folders)
    planner = _build_planner(rules)
    planner.started(guarded(_show_started), planner, monitor, **HIDDEN)
    monitor.clone_run(guarded(_ask_to_clone), monitor, planner, **HIDDEN)
    if not rules.refusal:
        _build_upload(planner, rules)


def _build_upload(planner: gr.HTML, rules: Rules) -> None:
    with gr.Accordion("Your own text", open=False, elem_id="plan-texts"):
        gr.HTML(f'<p class="soft">{escape(ABOUT_TEXT)}</p>', js_on_load=None)
        upload = gr.File(
            label="Upload", file_count="multiple", file_types=list(TEXT_KINDS), height=130
        )

    def keep(paths: list[str] | None) -> tuple[None, dict[str, Any]]:
        """Save uploaded files and tell the planner their names."""
        names = save_texts(paths or [], rules.refusal)
        return None, {"kept": names, "moment": time.monotonic_ns()}

    upload.upload(guarded(keep), upload, [upload, planner], **HIDDEN)


def _show_started(value: dict[str, Any]) -> dict[str, Any]:
    """Return the monitor's value: the run that was started."""
    return {"run": check_name((value or {}).get("run"), "run")}


def _ask_to_clone(value: dict[str, Any]) -> dict[str, Any]:
    """Return the planner's value: the run to clone; the moment makes a second time a change."""
    run = check_name((value or {}).get("clone"), "run")
    return {"clone": run, "moment": time.monotonic_ns()}


def _build_planner(rules: Rules) -> gr.HTML:
    launcher = Launcher(rules)
    return gr.HTML(
        {"run": ""},
        html_template=PLANNER,
        js_on_load="\n".join(read_asset(name) for name in SCRIPTS),
        server_functions=[
            _answering(launcher.read_planner),
            _answering(launcher.check_draft),
            _answering(launcher.load_recipe),
            _answering(launcher.clone_recipe),
            _answering(launcher.save_command),
            _answering(launcher.start_job),
            _answering(launcher.read_job),
            _answering(launcher.stop_job),
            _answering(launcher.start_plan),
        ],
        apply_default_css=False,
        elem_id="planner",
    )


def _answering(work: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a server function of the same name: it answers what `work` does, or its message."""

    def answer(question: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            return work(question if isinstance(question, dict) else {})
        except StentorError as error:
            return {"error": str(error)}

    answer.__name__ = work.__name__
    return answer
