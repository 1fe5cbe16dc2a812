"""The Training tab: plan a run, start it, watch it, walk through what it wrote, control it.

The live view is one `gr.HTML`; its scripts (assets/train.js and those beside it) ask the server for
what is new; its server functions are here. The run itself belongs to its folder: the page and the
app may come and go. How the plan is made is in train_planner.py.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from stentor.errors import OptionError, StentorError
from stentor.models import RUN_PREFIX
from stentor.ui import train_actions as actions
from stentor.ui import train_checkpoints as kept
from stentor.ui import train_planner
from stentor.ui.assets import PLOTLY_URL, read_asset
from stentor.ui.context import AppContext, CompareRequest, Page, compare_request
from stentor.ui.train_feed import RunFeeds, answer, read_curves
from stentor.ui.train_hand_over import hand_over
from stentor.ui.train_monitor import MONITOR
from stentor.ui.train_samples import read_samples

TITLE = "Training"
SCRIPTS = (
    *("chart_data.js", "chart_traces.js", "chart_layout.js", "chart_reader.js"),
    *("chart_pointer.js", "chart_controls.js", "chart_plot.js", "chart.js"),
    *("samples.js", "run_menu.js", "run_alerts.js", "run_control.js"),
    *("planner_fields.js", "hand_over.js", "train.js"),
)


def build(context: AppContext, page: Page) -> None:
    """Create the tab in the present layout."""
    with gr.Column(elem_id="training"):
        monitor = _build_monitor(context)
        with gr.Column(elem_id="new-run"):
            train_planner.build(context, monitor)
    page.send(monitor.open_checkpoint, _request_checkpoint, monitor)


def _request_checkpoint(value: dict[str, Any]) -> CompareRequest:
    """Return the request to open the checkpoint whose button was pressed, and its opponent."""
    asked = value or {}
    reference = actions.check_name(asked.get("open"), "checkpoint")
    if not reference.startswith(RUN_PREFIX):
        raise OptionError(f"{reference!r} is no checkpoint of a run.")
    left = kept.opponent_of(asked.get("run"), asked.get("against"))
    return compare_request(left=left, right=reference)


def _build_monitor(context: AppContext) -> gr.HTML:
    """Create the live view; its server functions answer the page's scripts."""
    feeds, refusal = RunFeeds(), context.training_refusal

    def watch_run(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: answer(feeds, _checked(question), refusal))

    def show_curves(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: read_curves(feeds, _checked(question)))

    def show_samples(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: read_samples(feeds, _checked(question)))

    def control_run(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: actions.control(_checked(question), refusal))

    def list_opponents(run: str) -> dict[str, Any]:
        return _or_error(lambda: {"html": kept.opponents(run, refusal)})

    def measure_run(run: str) -> dict[str, Any]:
        return _or_error(lambda: dict(kept.describe_for_deletion(run, refusal)))

    def hand_over_run(question: dict[str, Any]) -> dict[str, Any]:
        return _or_error(lambda: hand_over(_checked(question), refusal))

    # The page calls them by these names.
    show_curves.__name__, show_samples.__name__ = "read_curves", "read_samples"
    return gr.HTML(
        {"run": ""},
        html_template=MONITOR,
        js_on_load="\n".join(read_asset(name) for name in SCRIPTS),
        server_functions=[
            watch_run,
            show_curves,
            show_samples,
            control_run,
            list_opponents,
            measure_run,
            hand_over_run,
        ],
        plotly_url=PLOTLY_URL,
        apply_default_css=False,
        elem_id="monitor",
    )


def _checked(question: object) -> dict[str, Any]:
    """Return a question of the page, which must be an object with named values."""
    if not isinstance(question, Mapping):
        raise OptionError("A question must be an object with named values.")
    return dict(question)


def _or_error(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `work` returns, or its message for the user."""
    try:
        return work()
    except StentorError as error:
        return {"error": str(error)}
