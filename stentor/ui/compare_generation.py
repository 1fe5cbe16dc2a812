"""Two requests side by side, each at its own pace, and what a browser sees of them.

The engine's streams belong to the room; this module submits them for one browser, reads their
snapshots a few times a second and gives them back when the browser leaves. It knows no widgets.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, StopReason, Stream
from stentor.errors import PromptError, StentorError
from stentor.store import LoadedModel, ModelStore, prepare_prompt
from stentor.ui.shared import number, short_count

SIDES = ("left", "right")
# Updates of a page: often enough to look continuous, seldom enough for thirty browsers at once.
UPDATE_SECONDS = 0.1


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


class Ticket:
    """One press of Generate: the streams of its sides as they start, and who was told to stop.

    A side may be stopped before its model is loaded: whichever of stopping and starting comes
    second sees the other.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self._stopped: set[str] = set()

    def start(self, side: str, stream: Stream) -> None:
        """Register a side's stream, unless the side was stopped meanwhile."""
        self.streams[side] = stream
        if side in self._stopped:
            stream.cancel()

    def stop(self, sides: tuple[str, ...] = SIDES) -> None:
        """Cancel these sides; the engine frees them before the next token."""
        self._stopped.update(sides)
        for side in sides:
            if side in self.streams:
                self.streams[side].cancel()


class Desk:
    """Which ticket belongs to which browser; so that Stop finds it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tickets: dict[str, Ticket] = {}

    def open(self, session: str) -> Ticket:
        """Return a new ticket for a browser; the one it had before is stopped."""
        ticket = Ticket()
        with self._lock:
            earlier = self._tickets.pop(session, None)
            self._tickets[session] = ticket
        if earlier is not None:
            earlier.stop()
        return ticket

    def is_current(self, session: str, ticket: Ticket) -> bool:
        """Tell whether the browser still waits for this ticket and not for a newer one."""
        with self._lock:
            return self._tickets.get(session) is ticket

    def stop(self, session: str, sides: tuple[str, ...] = SIDES) -> None:
        """Stop these sides of a browser's generation, if it has one."""
        with self._lock:
            ticket = self._tickets.get(session)
        if ticket is not None:
            ticket.stop(sides)

    def close(self, session: str, ticket: Ticket) -> None:
        """Forget a ticket, stopping what still goes on."""
        with self._lock:
            if self._tickets.get(session) is ticket:
                del self._tickets[session]
        ticket.stop()


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
            GenerationRequest(given, settings, session, first_index=len(self._earlier_ids))
        )

    @property
    def _earlier_ids(self) -> tuple[int, ...]:
        return self.request.earlier.token_ids if self.request.earlier else ()

    @property
    def _earlier_text(self) -> str:
        return self.request.earlier.text if self.request.earlier else ""

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
        if snapshot.queue_position:
            return f"Waiting: number {snapshot.queue_position} in line."
        if self.num_dropped:
            return f"The first {self.num_dropped:,} tokens of the prompt were left out."
        return ""


def generate(
    store: ModelStore,
    desk: Desk,
    session: str,
    requests: dict[str, SideRequest],
    *,
    allow_folders: bool,
) -> Iterator[tuple[dict[str, dict[str, Any]], dict[str, Output | None]]]:
    """Yield (pane data of the sides that changed, finished outputs) until both sides are done.

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
        while desk.is_current(session, ticket):
            is_over = _is_over(opening, ticket)  # before the last look
            views = {side: _view(requests[side], opening[side]) for side in requests}
            if is_over:
                yield views, {side: future.result().output() for side, future in opening.items()}
                return
            changed = {side: view for side, view in views.items() if shown.get(side) != view}
            shown = views
            if changed:
                yield changed, {}
            time.sleep(UPDATE_SECONDS)
    finally:
        desk.close(session, ticket)
        pool.shutdown(wait=False)


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
        "meta": f"{size} parameters · fp32 · {loaded.checkpoint.revision[:19]}",
    }


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
