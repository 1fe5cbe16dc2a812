"""The public HTTP API: what the page does, for programs. /generate streams, /score, /models.

`connect(context)` adds three named Gradio endpoints, so that gradio_client and curl can call them
and /gradio_api/info describes them. Requests go through the same engines as the page. How settings
become parameters is in api_endpoint.py, who may ask how much in api_limits.py. Knows no widgets.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import gradio as gr

from stentor.commands import TokenOptions, model_json
from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, StopReason, Stream
from stentor.errors import ModelError
from stentor.knobs import knob, to_json
from stentor.loading import count_parameters
from stentor.provenance import versions
from stentor.store import OVERFLOW, AvailableModel, LoadedModel, PreparedPrompt, prepare_prompt
from stentor.token_scores import score_text, token_json, token_text
from stentor.ui.api_endpoint import add_endpoint
from stentor.ui.api_limits import MAX_RUNNING, Lobby, client_of
from stentor.ui.context import AppContext

Result = TypeVar("Result")
# An update costs Gradio half a millisecond of Python: thirty streams take 6 % of a core.
UPDATE_SECONDS = 0.25
# How soon the first token and the end of a text are noticed.
LOOK_SECONDS = 0.04
# Gradio lets go of a client that left when it sends the next update, so there is one at least this
# often, also where nothing changed.
ALIVE_SECONDS = 1.0
# Of one text, the wait included: nothing stays behind, whatever becomes of its client.
DEADLINE_SECONDS = 600.0


@dataclass(frozen=True)
class GenerateCall:
    """What /generate is asked for, less the settings of sampling and tokens."""

    model: str
    prompt: str
    overflow: str = knob(
        "refuse",
        choices=OVERFLOW,
        help="; ".join(f"{name}: {meaning}" for name, meaning in OVERFLOW.items()),
    )


@dataclass(frozen=True)
class ScoreCall:
    """What /score is asked for."""

    model: str
    text: str


def connect(context: AppContext) -> None:
    """Create the endpoints in the present gr.Blocks."""
    api = _Api(context)
    add_endpoint(api.generate, GenerateCall, SamplingSettings, TokenOptions)
    add_endpoint(api.score, ScoreCall, TokenOptions)
    add_endpoint(api.models)


class _Api:
    """The handlers. Models load and texts are read in a pool of threads, not on the event loop."""

    def __init__(self, context: AppContext) -> None:
        self.context = context
        self.versions = versions()  # read once: it takes milliseconds
        self.lobby = Lobby()
        self.pool = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="stentor-api")

    async def generate(
        self,
        request: gr.Request,
        call: GenerateCall,
        settings: SamplingSettings,
        options: TokenOptions,
    ) -> AsyncIterator[dict[str, Any]]:
        """Continue a prompt. Every update holds the text so far, the last one all about it."""
        client = client_of(request)
        with self.lobby.enter(client):
            loaded, prepared = await self._in_pool(self._prepare, call, settings)
            stream = loaded.engine.submit(
                GenerationRequest(
                    prepared.token_ids,
                    settings,
                    session=_session(client),
                    num_alternatives=options.alternatives,
                    deadline_seconds=DEADLINE_SECONDS,
                )
            )
            try:
                async for update in _updates(stream):
                    yield update
                yield {
                    **await self._in_pool(_finished, loaded, prepared, stream),
                    "overflow": call.overflow,
                    "settings": to_json(settings),
                    "versions": self.versions,
                }
            finally:
                stream.cancel()  # for a client that left; harmless at the end

    async def score(
        self, request: gr.Request, call: ScoreCall, options: TokenOptions
    ) -> dict[str, Any]:
        """Say how likely each token of a text is to a model, before any sampler."""
        client = client_of(request)
        with self.lobby.enter(client):
            return await self._in_pool(self._score, call, options, _session(client))

    async def models(self, request: gr.Request) -> list[dict[str, Any]]:
        """List the models that can be asked for; one that is not ready must be fetched first."""
        with self.lobby.enter(client_of(request)):
            return await self._in_pool(self._list)

    async def _in_pool(self, function: Callable[..., Result], *values: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *values)

    def _load(self, reference: str) -> LoadedModel:
        return self.context.store.load(reference, allow_folders=self.context.allow_folders)

    def _prepare(
        self, call: GenerateCall, settings: SamplingSettings
    ) -> tuple[LoadedModel, PreparedPrompt]:
        loaded = self._load(call.model)
        room = settings.max_new_tokens
        return loaded, prepare_prompt(loaded, call.prompt, call.overflow, num_new_tokens=room)

    def _score(self, call: ScoreCall, options: TokenOptions, session: str) -> dict[str, Any]:
        loaded = self._load(call.model)
        scored = score_text(
            loaded, call.text, session=session, num_alternatives=options.alternatives
        )
        tokenizer = loaded.checkpoint.tokenizer
        first = {"token_id": scored.first_token, "text": token_text(tokenizer, scored.first_token)}
        return {
            **model_json(loaded),
            "num_bytes": scored.num_bytes,
            "bits": scored.bits,
            "bits_per_byte": scored.bits_per_byte,
            "first_token": first,
            "tokens": [token_json(record, tokenizer) for record in scored.records],
            "versions": self.versions,
        }

    def _list(self) -> list[dict[str, Any]]:
        return [_model_line(entry) for entry in self.context.store.available()]


def _session(client: str) -> str:
    """Name whose turns an engine counts; never that of a page."""
    return f"api {client}"


async def _updates(stream: Stream) -> AsyncIterator[dict[str, Any]]:
    """Yield what is new, not too often and not too seldom, until the stream ends."""
    clock = asyncio.get_running_loop().time
    shown: dict[str, Any] = {}
    shown_at = clock() - ALIVE_SECONDS
    while not stream.is_done:
        fresh, age = _progress(stream.snapshot()), clock() - shown_at
        is_first = bool(fresh["num_tokens"]) and not shown.get("num_tokens")
        is_due = age >= UPDATE_SECONDS or is_first
        if age >= ALIVE_SECONDS or (is_due and fresh != shown):
            shown, shown_at = fresh, clock()
            yield fresh
        await asyncio.sleep(LOOK_SECONDS)


def _progress(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "text": snapshot.text,
        "num_tokens": snapshot.num_tokens,
        "queue_position": snapshot.queue_position,
        "expected_wait_seconds": snapshot.expected_wait_seconds,
        "stop_reason": snapshot.stop_reason,
    }


def _finished(loaded: LoadedModel, prepared: PreparedPrompt, stream: Stream) -> dict[str, Any]:
    """Return all about a text that has ended.

    Raises:
        ModelError: it failed.
    """
    snapshot = stream.snapshot()
    if snapshot.stop_reason is StopReason.FAILED:
        raise ModelError(f"{loaded.spec.title}: {snapshot.error}")
    return {
        **_progress(snapshot),
        **model_json(loaded),
        "num_prompt_tokens": len(prepared.token_ids),
        "num_dropped_tokens": prepared.num_dropped,
        "seconds_to_first_token": snapshot.seconds_to_first_token,
        "tokens_per_second": snapshot.tokens_per_second,
        "tokens": [token_json(record, loaded.checkpoint.tokenizer) for record in stream.tokens],
    }


def _model_line(entry: AvailableModel) -> dict[str, Any]:
    """Return a line of /models; nothing of it says where on the server the model is."""
    parameters = entry.spec.parameters
    if entry.folder is not None:
        try:
            parameters = count_parameters(entry.folder)
        except ModelError:  # whoever asks for it reads what is wrong
            parameters = None
    return {
        "model": entry.spec.name,
        "title": entry.spec.title,
        "note": entry.spec.note,
        "hub_id": entry.spec.hub_id,
        "is_ready": entry.is_ready,
        "num_parameters": parameters,
        "num_bytes": entry.num_bytes,
    }
