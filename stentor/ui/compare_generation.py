"""Two requests side by side, each at its own pace, and what a browser sees of them.

The engine's streams belong to the room; this module submits them for one browser, reads their
snapshots a few times a second and gives them back when the browser leaves. It runs on the event
loop, where an update costs least; models are loaded in threads. It knows no widgets.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, StopReason, Stream
from stentor.errors import PromptError, StentorError
from stentor.store import LoadedModel, ModelStore, prepare_prompt
from stentor.ui.compare_desk import Desk, Ticket
from stentor.ui.shared import duration, number, short_count

# How soon the first token, a change of state and the end are noticed.
LOOK_SECONDS = 0.05
# Gradio lets go of a browser that has left when it sends the next update, so there is one at least
# this often.
ALIVE_SECONDS = 1.0
# Of one generation, the wait included: nothing stays behind, whatever becomes of its browser.
DEADLINE_SECONDS = 600.0


@dataclass(frozen=True)
class Output:
    """One finished (or stopped) generation: all that continuing and remembering it needs."""

    reference: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    settings: SamplingSettings
    num_dropped: int


@dataclass(frozen=True)
class SideRequest:
    """What one side shall do. `earlier`: go on after this output instead of starting anew."""

    reference: str
    prompt: str
    overflow: str
    settings: SamplingSettings
    earlier: Output | None = None


class _Side:
    """One side while it generates: model, prompt tokens, stream, or the error that prevented it."""

    def __init__(
        self, loaded: LoadedModel | None, request: SideRequest, session: str, error: str | None
    ) -> None:
        self.loaded = loaded
        self.request = request
        self.error = error
        self.stream: Stream | None = None
        self.num_dropped = 0
        self._has_begun = False
        self.prompt_ids: tuple[int, ...] = ()
        if loaded is None:
            return
        try:
            self._submit(loaded, session)
        except StentorError as problem:
            self.error = str(problem)

    def _submit(self, loaded: LoadedModel, session: str) -> None:
        request, earlier = self.request, self.request.earlier
        settings = request.settings
        if earlier is None:
            prepared = prepare_prompt(
                loaded, request.prompt, request.overflow, num_new_tokens=settings.max_new_tokens
            )
            self.prompt_ids, self.num_dropped = prepared.token_ids, prepared.num_dropped
        else:
            self.prompt_ids, self.num_dropped = earlier.prompt_ids, earlier.num_dropped
        given = self.prompt_ids + self._earlier_ids
        if len(given) >= loaded.engine.context_length:
            raise PromptError(
                f"The context of {loaded.engine.context_length} tokens is full; it cannot go on."
            )
        self.stream = loaded.engine.submit(
            GenerationRequest(
                given,
                settings,
                session,
                first_index=len(self._earlier_ids),
                deadline_seconds=DEADLINE_SECONDS,
            )
        )

    @property
    def _earlier_ids(self) -> tuple[int, ...]:
        return self.request.earlier.token_ids if self.request.earlier else ()

    @property
    def _earlier_text(self) -> str:
        return self.request.earlier.text if self.request.earlier else ""

    @property
    def stage(self) -> int:
        """Return 0 before the first token, 1 after it, 2 at the end."""
        if self.stream is None or self.stream.is_done:
            return 2
        self._has_begun = self._has_begun or self.stream.snapshot().num_tokens > 0
        return int(self._has_begun)

    def output(self) -> Output | None:
        """Return what was generated, or None where nothing could start."""
        if self.stream is None:
            return None
        snapshot = self.stream.snapshot()
        return Output(
            self.request.reference,
            self.request.prompt,
            self.prompt_ids,
            self._earlier_ids + snapshot.token_ids,
            self._earlier_text + snapshot.text,
            self.request.settings,
            self.num_dropped,
        )

    def view(self) -> dict[str, Any]:
        """Return the pane's data; text is escaped where it is drawn, in assets/pane.js."""
        heading = model_heading(self.loaded) if self.loaded else {"title": self.request.reference}
        view = {**heading, "prompt": self.request.prompt, "text": self._earlier_text}
        if self.stream is None:
            return {**view, "state": "error", "message": self.error or ""}
        snapshot = self.stream.snapshot()
        view["text"] += snapshot.text
        view["state"] = _state_of(snapshot)
        view["message"] = snapshot.error or self._note(snapshot)
        view["figures"] = figures(snapshot, self.request.settings.max_new_tokens)
        return view

    def _note(self, snapshot: Snapshot) -> str:
        if not snapshot.is_done and snapshot.queue_position:
            return waiting_line(snapshot.queue_position, snapshot.expected_wait_seconds)
        if snapshot.stop_reason is StopReason.DEADLINE:
            return (
                f"Ended after {DEADLINE_SECONDS / 60:.0f} minutes, the most for one text. "
                "Press Continue to go on."
            )
        if self.num_dropped:
            return f"The first {self.num_dropped:,} tokens of the prompt were left out."
        return ""


async def generate(
    store: ModelStore,
    desk: Desk,
    session: str,
    requests: dict[str, SideRequest],
    *,
    allow_folders: bool,
) -> AsyncGenerator[tuple[dict[str, dict[str, Any]], dict[str, Output | None]]]:
    """Yield (pane data of the sides that changed, finished outputs) until both sides are done.

    Both are empty when nothing is new and Gradio is to find out whether the browser is still there.
    Closing the iterator (the browser is gone, or a newer generation began) frees the compute.
    """
    ticket = desk.open(session)
    pool = ThreadPoolExecutor(len(requests), thread_name_prefix="stentor-compare")
    try:
        opening = {
            side: pool.submit(_open, store, side, request, session, ticket, allow_folders)
            for side, request in requests.items()
        }
        shown: dict[str, dict[str, Any]] = {}
        shown_stages: tuple[int, ...] = ()
        shown_at = time.monotonic()
        while desk.is_current(session, ticket):
            is_over = _is_over(opening, ticket)  # before the last look
            stages = tuple(map(_stage, opening.values()))
            age = time.monotonic() - shown_at
            if is_over or stages != shown_stages or age >= desk.pace:
                views = {side: _view(requests[side], opening[side]) for side in requests}
                if is_over:
                    outputs = {side: each.result().output() for side, each in opening.items()}
                    yield views, outputs
                    return
                changed = {side: view for side, view in views.items() if shown.get(side) != view}
                if changed or age >= ALIVE_SECONDS:
                    shown, shown_stages, shown_at = views, stages, time.monotonic()
                    yield changed, {}
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        desk.close(session, ticket)
        pool.shutdown(wait=False)


def _stage(opening: Future[_Side]) -> int:
    """Return how far a side is, at little cost: a new stage is shown at once."""
    return 1 + opening.result().stage if opening.done() else 0


def _is_over(opening: dict[str, Future[_Side]], ticket: Ticket) -> bool:
    is_open = all(future.done() for future in opening.values())
    return is_open and all(stream.is_done for stream in ticket.streams.values())


def _view(request: SideRequest, opening: Future[_Side]) -> dict[str, Any]:
    """Return a side's pane data, also while its model is being loaded."""
    if opening.done():
        return opening.result().view()
    text = request.earlier.text if request.earlier else ""
    return {"title": request.reference, "prompt": request.prompt, "text": text, "state": "loading"}


def _open(
    store: ModelStore,
    side: str,
    request: SideRequest,
    session: str,
    ticket: Ticket,
    allow_folders: bool,
) -> _Side:
    """Load a side's model and submit its request; what goes wrong is told in its own pane."""
    try:
        loaded = store.load(request.reference, allow_folders=allow_folders)
    except StentorError as problem:
        return _Side(None, request, session, str(problem))
    opened = _Side(loaded, request, session, None)
    if opened.stream is not None:
        ticket.start(side, opened.stream)
    return opened


def model_heading(loaded: LoadedModel) -> dict[str, str]:
    """Return title and provenance of a model, as shown above its text."""
    size = short_count(loaded.checkpoint.num_parameters)
    return {
        "title": loaded.spec.title,
        "meta": f"{size} parameters · {loaded.engine.precision} · "
        f"{loaded.checkpoint.revision[:19]}",
    }


def waiting_line(position: int, expected_seconds: float | None) -> str:
    """Return a place in line in words: `Place 3 in line, about 4 s.`"""
    if expected_seconds is None:
        return f"Place {position} in line."
    return f"Place {position} in line, about {duration(max(1.0, expected_seconds))}."


def figures(snapshot: Snapshot, max_new_tokens: int) -> str:
    """Return speed, time to first token, tokens and stop reason in one line."""
    if snapshot.seconds_to_first_token is None:
        return "" if snapshot.stop_reason is None else str(snapshot.stop_reason)
    parts = [
        f"{number(snapshot.tokens_per_second)} tokens/s",
        f"{number(snapshot.seconds_to_first_token)} s to the first",
        f"{snapshot.num_tokens} of {max_new_tokens} tokens",
    ]
    if snapshot.stop_reason is not None:
        parts.append(str(snapshot.stop_reason))
    return " · ".join(parts)


def _state_of(snapshot: Snapshot) -> str:
    if not snapshot.is_done:
        return "waiting" if snapshot.queue_position else "running"
    return "error" if snapshot.stop_reason == StopReason.FAILED else "done"
