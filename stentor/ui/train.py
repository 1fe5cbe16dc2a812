"""The Training tab: choose a recipe, see what it will do, start it, watch it, stop and resume it.

The form is Gradio's; the live view is one `gr.HTML` whose script (assets/train.js) asks the server
for what is new. The run itself belongs to its folder: the page and the app may come and go.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr

from stentor.errors import OptionError, StentorError
from stentor.models import RUN_PREFIX
from stentor.ui import train_actions as actions
from stentor.ui import train_form
from stentor.ui.assets import PLOTLY_URL, read_asset
from stentor.ui.context import AppContext, CompareRequest, Page, compare_request
from stentor.ui.train_feed import RunFeeds, answer

TITLE = "Training"
MONITOR = """
<div class="monitor" data-view="loading">
  <div class="run-bar">
    <button type="button" class="plain-button" data-action="new">New run</button>
    <label class="run-menu">Runs <select></select></label>
  </div>
  <div class="run-view">
    <div data-part="heading"></div>
    <div class="run-actions">
      <div data-part="actions"></div>
      <p class="status-line" role="status" data-part="news"></p>
    </div>
    <div data-part="cards"></div>
    <div data-part="notices"></div>
    <div class="run-columns">
      <section class="chart-box" aria-label="Curves">
        <div class="chart" role="img" aria-label="Loss, learning rate, gradient norm and speed over
          tokens; the newest values are in the table beside it"></div>
        <p class="chart-empty">The curves begin with the first training step. Expanding comes first
          and has no steps.</p>
      </section>
      <aside>
        <div data-part="numbers"></div>
        <div data-part="checkpoints"></div>
        <div data-part="machine"></div>
      </aside>
    </div>
    <div class="run-columns even">
      <section><h4>Samples</h4><div data-part="samples"></div></section>
      <section class="log-box"><h4>Log</h4>
        <pre class="log" tabindex="0" aria-label="End of the log"></pre></section>
    </div>
    <details class="run-command"><summary>Exact command of this run</summary>
      <div class="command-line"><code data-part="command"></code>
        <button type="button" class="plain-button" data-action="copy">Copy</button></div>
    </details>
  </div>
</div>
"""


def build(context: AppContext, page: Page) -> None:
    """Create the tab in the present layout."""
    with gr.Column(elem_id="training"):
        monitor = _build_monitor(context)
        with gr.Column(elem_id="new-run"):
            train_form.build(context, monitor)
    page.send(monitor.open_checkpoint, _request_checkpoint, monitor)


def _request_checkpoint(value: dict[str, Any]) -> CompareRequest:
    """Return the request to open the checkpoint whose button was pressed."""
    reference = actions.check_name((value or {}).get("open"), "checkpoint")
    if not reference.startswith(RUN_PREFIX):
        raise OptionError(f"{reference!r} is no checkpoint of a run.")
    return compare_request(right=reference)


def _build_monitor(context: AppContext) -> gr.HTML:
    """Create the live view; its server functions answer the page's script."""
    feeds, refusal = RunFeeds(), context.training_refusal

    def watch_run(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: answer(feeds, question, refusal))

    def stop_run(run: str) -> dict[str, Any]:
        return _or_error(lambda: {"news": actions.stop_run(run, refusal)})

    def resume_run(run: str) -> dict[str, Any]:
        return _or_error(lambda: {"news": actions.resume_run(run, refusal)})

    return gr.HTML(
        {"run": ""},
        html_template=MONITOR,
        js_on_load=read_asset("chart.js") + read_asset("train.js"),
        server_functions=[watch_run, stop_run, resume_run],
        plotly_url=PLOTLY_URL,
        apply_default_css=False,
        elem_id="monitor",
    )


def _or_error(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` returns, or its message for the user."""
    try:
        return work()
    except StentorError as error:
        return {"error": str(error)}
