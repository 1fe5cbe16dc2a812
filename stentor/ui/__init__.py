"""The page: a header and one tab per entry of TABS, and the API for programs.

Adding a tab is one file and one line here. Gradio lives in this package
and in app.py, nowhere else. Tabs never import each other.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from stentor.ui import api, compare, header, prompts, train
from stentor.ui.api_endpoint import refuse_names
from stentor.ui.api_limits import BoundedBodies
from stentor.ui.assets import asset_routes, read_asset, security_middleware
from stentor.ui.context import AppContext, Page
from stentor.ui.theme import make_theme

PAGE_TITLE = "Stentor playground"
# One thread per streaming answer or file transfer; they mostly wait.
MAX_THREADS = 200
MAX_UPLOAD = "200mb"
# Gradio keeps a copy of the page's state for each session (0.2 MB), and each curl is a session.
MAX_SESSIONS = 200
# After every event Gradio adds up all events so far, for a page of figures that is off here: 2 to 7
# ms of Python, and 30 kB that stay (measured over 2,500 requests). These are its own switches.
NO_STATISTICS = {
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
}
# Uploads and exports in Gradio's temporary folder: checked hourly, deleted after a day.
CACHE_SECONDS = (3_600, 86_400)


@dataclass(frozen=True)
class Tab:
    """One line of TABS; `name` is the tab's id, as used to select it."""

    name: str
    title: str
    build: Callable[[AppContext, Page], None]


TABS: tuple[Tab, ...] = (
    Tab("compare", compare.TITLE, compare.build),
    Tab("prompts", prompts.TITLE, prompts.build),
    Tab("train", train.TITLE, train.build),
)
STYLES = (
    "style.css",
    "header.css",
    "compare.css",
    "prompts.css",
    "train.css",
    "planner.css",
    "planner_form.css",
    "planner_report.css",
    "monitor.css",
    "charts.css",
    "run.css",
    "samples.css",
)


def build_app(context: AppContext) -> gr.Blocks:
    """Return the page with all tabs, ready to launch."""
    for name, value in NO_STATISTICS.items():
        os.environ.setdefault(name, value)  # read when a gr.Blocks is made
    blocks = gr.Blocks(
        title=PAGE_TITLE, analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS
    )
    with blocks:
        request = gr.State(None)
        pair = gr.State((context.pair.left, context.pair.right))
        banner = header.build(context)
        with gr.Tabs(selected=TABS[0].name, elem_id="tabs") as tabs:
            page = Page(tabs, request, pair)
            for tab in TABS:
                with gr.Tab(tab.title, id=tab.name, elem_id=f"tab-{tab.name}"):
                    tab.build(context, page)
        header.connect(banner, page)
        api.connect(context)
    # Gradio's default is one call of a handler at a time, for all visitors together.
    blocks.queue(default_concurrency_limit=None)
    return blocks


def launch_options(training_refusal: str | None = None) -> dict[str, Any]:
    """Return what `Blocks.launch` needs besides host and port.

    `training_refusal`: as in AppContext; where it is given, nobody may upload a file either.
    """
    return {
        "theme": make_theme(),
        "css": "\n".join(read_asset(name) for name in STYLES),
        "footer_links": [],
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "share": False,
        "enable_monitoring": False,
        "max_threads": MAX_THREADS,
        "max_file_size": MAX_UPLOAD,
        "state_session_capacity": MAX_SESSIONS,
        "app_kwargs": {
            "routes": asset_routes(),
            "middleware": [*security_middleware(training_refusal), Middleware(BoundedBodies)],
            "exception_handlers": {TypeError: refuse_names, KeyError: refuse_names},
        },
    }
