"""Submit a request, read its stream: one worker thread decodes for everyone in the room.

As many requests as there are slots are decoded together, and they come and go between two steps;
the others wait, and sessions take turns. What a request draws does not depend on who else is in the
room, so that the same seed gives the same text. It knows no references, prompts or pages.
"""

from collections.abc import Sequence
from functools import partial

import torch

from stentor.engine.decoder import Decoder
from stentor.engine.decoders import context_length, open_decoder
from stentor.engine.precision import resolve
from stentor.engine.requests import (
    GenerationJob,
    GenerationRequest,
    ScoreJob,
    check_request,
    check_score,
)
from stentor.engine.room import Room
from stentor.engine.stream import StopReason, Stream, TokenRecord
from stentor.engine.threads import ThreadBudget
from stentor.engine.worker import Worker
from stentor.errors import ModelError, OptionError
from stentor.loading import Checkpoint
from stentor.model_folder import read_revision
from stentor.provenance import num_cores

__all__ = ["NUM_SLOTS", "Engine", "GenerationRequest"]

NUM_SLOTS = 32  # a class of thirty


class Engine:
    """One loaded model, decoding for everyone who submits. Thread-safe."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: str = "auto",
        threads: ThreadBudget | None = None,
        num_slots: int = NUM_SLOTS,
    ) -> None:
        """`precision`: a name in PRECISIONS. `threads`: shared with the other engines, if any.

        At most `num_slots` requests are decoded together, fewer where memory is short.

        Raises:
            OptionError: no such precision here, or no slot.
            ModelError: the weights cannot be read.
        """
        if num_slots < 1:
            raise OptionError(f"A model needs at least 1 slot; got {num_slots}.")
        self.precision = resolve(precision)
        self.context_length = context_length(checkpoint.shape)
        self._checkpoint = checkpoint
        self._threads = threads or ThreadBudget(num_cores())
        decoder = self._open(num_slots)
        self.num_slots = decoder.num_slots
        self.cache_bytes = decoder.cache_bytes  # of the keys and values of all slots
        self._room = Room(self.num_slots)
        reopen = partial(self._reopen, self.num_slots)
        self._worker = Worker(self._room, decoder, reopen, self._threads)

    @property
    def num_threads(self) -> int:
        """Return how many threads all engines of the budget have together."""
        return self._threads.total

    @property
    def device(self) -> str:
        """Return "cpu" or the name of the GPU."""
        return torch.cuda.get_device_name() if self.precision == "bf16" else "cpu"

    @property
    def num_requests(self) -> int:
        """Return how many requests are decoding or waiting."""
        return self._room.num_requests

    @property
    def num_free_slots(self) -> int:
        """Return how many more requests could be decoded now."""
        return self._room.num_free_slots

    def describe(self) -> str:
        """Return precision, slots, memory and threads in one line."""
        threads = "1 thread" if self.num_threads == 1 else f"{self.num_threads} threads"
        where = threads if self.device == "cpu" else self.device
        return (
            f"{self.precision}, {self.num_slots} slots x {self.context_length} tokens, "
            f"KV cache {self.cache_bytes / 1e6:,.0f} MB, {where}"
        )

    def submit(self, request: GenerationRequest) -> Stream:
        """Put the request in line and return its stream at once.

        Raises:
            PromptError: no prompt tokens, too many, or unknown ones.
            OptionError: a setting, the deadline or the number of alternatives is out of its range.
            BusyError: too many requests are waiting.
            ModelError: the engine was closed.
        """
        check_request(request, self._checkpoint.shape.vocab_size, self.context_length)
        job = GenerationJob(request, self._checkpoint, self.context_length)
        self._room.add(job)
        self._worker.wake()
        return job.stream

    def score(
        self, token_ids: Sequence[int], *, session: str, num_alternatives: int = 0
    ) -> tuple[TokenRecord, ...]:
        """Measure a given text: wait for the records of `token_ids[1:]`.

        They are what generation would have recorded, had it drawn these tokens. The text waits for
        a slot and is read in pieces like everybody's prompt.

        Raises:
            PromptError: fewer than two tokens, more than the context, or unknown ones.
            OptionError: too many alternatives.
            BusyError: too many requests are waiting.
            ModelError: the model failed or was closed.
        """
        check_score(
            token_ids, num_alternatives, self._checkpoint.shape.vocab_size, self.context_length
        )
        job = ScoreJob(token_ids, self._checkpoint, session, num_alternatives)
        self._room.add(job)
        self._worker.wake()
        try:
            job.stream.wait()
        finally:
            job.stream.cancel()  # an interrupted caller leaves nothing behind
        snapshot = job.stream.snapshot()
        if snapshot.stop_reason is StopReason.TOKEN_LIMIT:
            return job.stream.tokens
        raise ModelError(snapshot.error or "The model was closed while it measured the text.")

    def close(self) -> None:
        """Stop every stream and end the worker; returns when it has ended."""
        self._room.close()
        self._worker.close()

    def _open(self, num_slots: int) -> Decoder:
        return open_decoder(
            self._checkpoint,
            precision=self.precision,
            num_slots=num_slots,
            threads=self._threads,
        )

    def _reopen(self, num_slots: int) -> Decoder:
        """Read the model again, if it is still the same one."""
        checkpoint = self._checkpoint
        try:
            revision = read_revision(checkpoint.folder, checkpoint.files)
        except OSError as error:
            raise ModelError(f"{checkpoint.folder} cannot be read any more ({error}).") from error
        if revision != checkpoint.revision:
            raise ModelError(f"The model in {checkpoint.folder} was replaced. Load it again.")
        return self._open(num_slots)
