"""What every tab receives: the app's services (one AppContext) and the page's wiring (one Page).

Each tab module has TITLE and `build(context: AppContext, page: Page) -> None`. Tabs do not know
each other: whoever wants Compare to open something calls `page.send(button.click, ...)`, Compare
listens with `page.on_request(...)`, and both meet in a `gr.State` made before any tab.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import gradio as gr
from gradio.components import Component

from stentor.errors import StentorError
from stentor.evaluation_runner import EvaluationRunner
from stentor.hub import Fetcher, cached_folder
from stentor.jobs import training_refusal
from stentor.models import MODELS, PAIRS, Pair
from stentor.run_watch import RunWatch, open_watch
from stentor.store import EngineOptions, ModelStore, open_store
from stentor.ui.shared import HIDDEN, guarded

COMPARE_TAB = "compare"
AUTO = "auto"
REAL_PAIR, DEMO_PAIR = "stentor", "demo"


@dataclass(frozen=True)
class AppContext:
    """The services of the app, built once at start and shared by all visitors.

    `pair`: the models a new visitor sees. `training_refusal`: why nobody may start training from
    the page, or None. `allow_folders`: a visitor may open folders of this machine by path, which
    only its owner should.
    """

    store: ModelStore
    fetcher: Fetcher
    evaluations: EvaluationRunner
    pair: Pair
    training_refusal: str | None
    allow_folders: bool
    run_watch: RunWatch | None = None

    def watch_runs(self) -> None:
        """Keep the line of runs going from now on; not where training is switched off."""
        if self.run_watch is not None:
            self.run_watch.start()

    def preload(self) -> None:
        """Load the pair in the background: nobody waits for it, and its memory is told at start."""
        # No daemon: Python cannot end while such a thread is in compiled code.
        Thread(target=self._load_pair, name="stentor-preload").start()

    def _load_pair(self) -> None:
        for reference in (self.pair.left, self.pair.right):
            with suppress(StentorError):  # the page says so to whoever asks for the model
                self.store.load(reference)

    def close(self) -> None:
        """End what works for the page: evaluations first, then the models they wait for."""
        if self.run_watch is not None:
            self.run_watch.close()
        self.evaluations.close()
        self.store.close()


def make_context(
    pair: str = AUTO,
    training: str = AUTO,
    *,
    is_private: bool,
    options: EngineOptions | None = None,
) -> AppContext:
    """Build the services and begin to fetch the real pair unless only the demo pair is wanted.

    `pair`: `auto` or a name in PAIRS; the real pair is shown first only when it is on this machine
    already. `training`: `on`, `off`, or `auto`: on when `is_private`, that is when nobody but this
    machine can reach the page. `options`: how the models compute.

    Raises:
        OptionError: this machine cannot compute in the precision asked for.
    """
    store = open_store(options or EngineOptions())
    real = [MODELS[name] for name in (PAIRS[REAL_PAIR].left, PAIRS[REAL_PAIR].right)]
    is_here = all(cached_folder(spec) for spec in real)
    refusal = _refusal(training, is_private)
    fetcher = Fetcher(real)
    if pair != DEMO_PAIR:
        fetcher.start()
    return AppContext(
        store=store,
        fetcher=fetcher,
        evaluations=EvaluationRunner(store),
        pair=PAIRS[REAL_PAIR if pair == REAL_PAIR and is_here else DEMO_PAIR],
        training_refusal=refusal,
        allow_folders=is_private and not os.environ.get("SPACE_ID"),
        run_watch=None if refusal else open_watch(),
    )


def _refusal(training: str, is_private: bool) -> str | None:
    """Say why nobody may start training from the page, or None; no flag overrules the machine."""
    never = training_refusal()
    if never:
        return never
    if training == "off":
        return (
            "Training was switched off when this playground was started (--no-training or "
            "--training off)."
        )
    if training == AUTO and not is_private:
        return (
            "Training is switched off because other machines can reach this playground. Whoever "
            "runs it can allow it with --training on."
        )
    return None


@dataclass(frozen=True)
class CompareRequest:
    """What a tab asks Compare to open; None (or no settings) leaves that part as it is.

    `left`, `right`: model references, see models.find_model. `settings`: names and values of
    sampling settings. `moment` makes two equal requests differ, so that the second arrives too.
    """

    prompt: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    left: str | None = None
    right: str | None = None
    moment: int = field(default_factory=time.monotonic_ns)


def compare_request(
    prompt: str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    left: str | None = None,
    right: str | None = None,
) -> CompareRequest:
    """Return a request; `settings` may be any mapping of sampling settings."""
    return CompareRequest(prompt, tuple((settings or {}).items()), left, right)


@dataclass(frozen=True)
class Page:
    """The wiring between the tabs of one page.

    `pair` is a `gr.State` with the references (left, right) of this browser's two models: Compare
    and the header write it, Prompts reads it as an input.
    """

    tabs: gr.Tabs
    request: gr.State
    pair: gr.State

    def send(
        self,
        event: Callable[..., Any],
        make: Callable[..., CompareRequest],
        inputs: Sequence[Component] | Component | None = None,
    ) -> None:
        """On `event` (such as `button.click`) open Compare with what `make(*inputs)` returns."""

        @guarded
        def handle(pair: tuple[str, str], *values: Any) -> tuple[Any, ...]:  # noqa: ANN401
            request = make(*values)
            chosen = (request.left or pair[0], request.right or pair[1])
            return gr.Tabs(selected=COMPARE_TAB), request, chosen

        given = [inputs] if isinstance(inputs, Component) else list(inputs or ())
        # Through the queue on purpose: Gradio reports a changed State to the browser only there.
        event(
            handle,
            [self.pair, *given],
            [self.tabs, self.request, self.pair],
            concurrency_limit=None,
            **HIDDEN,
        )

    def on_request(
        self, handle: Callable[..., Any], outputs: Sequence[Component] | Component
    ) -> None:
        """Call `handle(request)` whenever a request arrives; for Compare only."""
        self.request.change(
            guarded(handle), self.request, outputs, concurrency_limit=None, **HIDDEN
        )
