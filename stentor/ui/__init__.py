"""The page: a header and one tab per entry of TABS. Adding a tab is one file and one line here.

Gradio lives in this package and in app.py, nowhere else. Tabs never import each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from stentor.ui import compare, header, prompts, train
from stentor.ui.assets import asset_routes, read_asset, security_middleware
from stentor.ui.context import AppContext, Page
from stentor.ui.theme import make_theme

PAGE_TITLE = "Stentor playground"
# One thread per streaming answer or file transfer; they mostly wait.
MAX_THREADS = 200
MAX_UPLOAD = "200mb"
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
    "monitor.css",
)


def build_app(context: AppContext) -> gr.Blocks:
    """Return the page with all tabs, ready to launch."""
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
        "app_kwargs": {
            "routes": asset_routes(),
            "middleware": security_middleware(training_refusal),
        },
    }
