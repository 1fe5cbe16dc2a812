"""Submit a request, read its stream: one worker thread decodes for everyone in the room.

At most MAX_ROWS requests decode at the same time, one token each per turn; the others wait, and
sessions take turns. Every row is decoded on its own, so that the same seed gives the same text bit
for bit whoever else is in the room. It knows no references, prompts or pages.
"""

import traceback
from dataclasses import dataclass
from threading import Condition, Thread

import torch

from stentor.engine.cache import CachePool, CacheRow
from stentor.engine.llama import LlamaDecoder
from stentor.engine.sampling import SamplingSettings, choose_token
from stentor.engine.scheduler import FairQueue
from stentor.engine.stream import StopReason, Stream
from stentor.engine.text import IncrementalText
from stentor.errors import ModelError, PromptError, StentorError
from stentor.knobs import check
from stentor.loading import Checkpoint, read_weights
from stentor.provenance import num_cores

MAX_ROWS = 8
MAX_WAITING = 128
# A long prompt is read in pieces of this many tokens, so that nobody's stream stalls meanwhile.
PREFILL_TOKENS = 64
# A cache row is allocated for the whole context; a config may claim any length.
MAX_CONTEXT = 4096


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate from; `first_index` is the number of tokens a continuation already has."""

    prompt_ids: tuple[int, ...]
    settings: SamplingSettings
    session: str
    first_index: int = 0


class _Job:
    """A request on its way: its tokens so far, its text and, once it has a slot, its cache row."""

    def __init__(self, request: GenerationRequest, text: IncrementalText) -> None:
        self.request = request
        self.text = text
        self.stream = Stream()
        self.token_ids = list(request.prompt_ids)
        self.row: CacheRow | None = None

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - len(self.request.prompt_ids)


def default_num_threads() -> int:
    """Return half of the cores this process may use: the two models of a pair own one half each."""
    return max(1, num_cores() // 2)


class Engine:
    """One loaded model, decoding for everyone who submits. Thread-safe."""

    def __init__(
        self, checkpoint: Checkpoint, *, num_threads: int | None = None, max_rows: int = MAX_ROWS
    ) -> None:
        self.num_threads = num_threads or default_num_threads()
        self.context_length = min(checkpoint.shape.context_length, MAX_CONTEXT)
        self._checkpoint = checkpoint
        self._decoder = LlamaDecoder(
            checkpoint.shape, read_weights(checkpoint), self.context_length
        )
        self._max_rows = max_rows
        self._pool = CachePool(checkpoint.shape, self.context_length, max_rows)
        self._queue: FairQueue[_Job] = FairQueue()
        self._active: list[_Job] = []
        self._is_closed = False
        self._worker: Thread | None = None
        self._changed = Condition()  # guards the queue, the list of active jobs and the worker

    @property
    def num_requests(self) -> int:
        """Return how many requests are decoding or waiting."""
        with self._changed:
            return len(self._active) + len(self._queue)

    def submit(self, request: GenerationRequest) -> Stream:
        """Put the request in line and return its stream at once.

        Raises:
            PromptError: no prompt tokens, too many, or unknown ones.
            OptionError: a setting is out of its range.
            ModelError: the engine was closed.
            StentorError: too many requests are waiting.
        """
        check(request.settings)
        self._check_prompt(request.prompt_ids)
        job = _Job(request, IncrementalText(self._checkpoint.tokenizer, request.prompt_ids))
        with self._changed:
            if self._is_closed:
                raise ModelError("This model was closed to make room. Load it again.")
            if len(self._queue) >= MAX_WAITING:
                raise StentorError(
                    f"{len(self._queue)} requests are waiting already. Try again in a minute."
                )
            self._queue.add(request.session, job)
            self._number_the_queue()
            if self._worker is None:
                self._worker = Thread(target=self._work, name="stentor-engine", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return job.stream

    def close(self) -> None:
        """Stop every stream and end the worker; returns when it has ended."""
        with self._changed:
            self._is_closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None:
            worker.join()

    def _check_prompt(self, prompt_ids: tuple[int, ...]) -> None:
        if not prompt_ids:
            raise PromptError("The prompt is empty. Write a few words to continue.")
        if len(prompt_ids) >= self.context_length:
            raise PromptError(
                f"The prompt has {len(prompt_ids):,} tokens; the context of "
                f"{self.context_length:,} must also hold what is generated. Shorten it."
            )
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < self._checkpoint.shape.vocab_size:
            raise PromptError("The prompt holds token ids that this model does not have.")

    def _work(self) -> None:
        """Serve until closed. A worker that breaks fails its streams; a request starts it anew."""
        torch.set_num_threads(self.num_threads)  # counts for this thread only
        reason, error = StopReason.STOPPED, None
        try:
            self._serve()
        except Exception as unexpected:  # noqa: BLE001 - our own mistake must reach its readers
            traceback.print_exc()
            reason, error = StopReason.FAILED, _describe(unexpected)
        with self._changed:
            for job in (*self._active, *self._queue):
                job.stream.finish(reason, error)
            self._active = []
            self._queue = FairQueue()
            self._pool = CachePool(self._checkpoint.shape, self.context_length, self._max_rows)
            self._worker = None

    def _serve(self) -> None:
        """Give every active request one turn after the other, until the engine is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._active or len(self._queue))
                if self._is_closed:
                    return
                self._admit()
                turn = tuple(self._active)
            for job in turn:
                self._take_turn(job)

    def _admit(self) -> None:
        """Give free slots to those who wait, and let go of those who no longer want one."""
        unwanted = [job for job in self._queue if job.stream.is_cancelled]
        for job in unwanted:
            self._queue.remove(job)
        while len(self._queue) and len(self._active) < self._max_rows:
            job = self._queue.pop()
            job.stream.set_queue_position(0)
            self._active.append(job)
        self._number_the_queue()
        for job in unwanted:
            job.stream.finish(StopReason.STOPPED)

    def _number_the_queue(self) -> None:
        for position, job in enumerate(self._queue, start=1):
            job.stream.set_queue_position(position)

    def _take_turn(self, job: _Job) -> None:
        """Advance one request; whatever goes wrong with it ends it alone."""
        error = None
        try:
            reason = self._advance(job)
        except Exception as problem:  # noqa: BLE001 - the other requests must go on
            if not isinstance(problem, StentorError):
                traceback.print_exc()
            reason, error = StopReason.FAILED, _describe(problem)
        if reason is None:
            return
        with self._changed:
            self._active.remove(job)
            if job.row is not None:
                self._pool.give_back(job.row)
        job.stream.finish(reason, error)

    def _advance(self, job: _Job) -> StopReason | None:
        """Read the next piece of the prompt, or generate one token; return why it ended, if so."""
        if job.stream.is_cancelled:
            return StopReason.STOPPED
        if job.row is None:
            job.row = self._pool.take()
        start = job.row.length
        piece = job.token_ids[start : start + PREFILL_TOKENS]
        hidden = self._decoder.hidden_states(piece, job.row)
        if job.row.length < len(job.token_ids):
            return None
        settings = job.request.settings
        choice = choose_token(
            self._decoder.logits(hidden[-1]),
            job.token_ids,
            settings,
            index=job.request.first_index + job.num_generated,
        )
        if choice.token_id in self._checkpoint.end_tokens:
            return StopReason.END_OF_TEXT
        job.token_ids.append(choice.token_id)
        text = job.text.add(choice.token_id)
        job.stream.append(choice.token_id, text, choice.log_probability)
        if job.num_generated >= settings.max_new_tokens:
            return StopReason.TOKEN_LIMIT
        return StopReason.CONTEXT_FULL if len(job.token_ids) >= self.context_length else None


def _describe(problem: Exception) -> str:
    """Return what a user reads of a failure."""
    if isinstance(problem, StentorError):
        return str(problem)
    return f"The engine failed: {type(problem).__name__}: {problem}"
