"""What can be asked of an engine, and how far each request has come.

A job hands out the next piece to read and takes the answers. It knows no queue, no other job and no
decoder.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from stentor.engine.decoder import MAX_ALTERNATIVES, NOT_FINITE, Answer, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.stream import StopReason, Stream
from stentor.engine.text import IncrementalText
from stentor.errors import ModelError, OptionError, PromptError
from stentor.knobs import check
from stentor.loading import Checkpoint

# Where a text may begin to be continued: far beyond any context, and exact in `uniform`.
MAX_FIRST_INDEX = 2**53


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate from; `first_index` is the number of tokens a continuation already has."""

    prompt_ids: tuple[int, ...]
    settings: SamplingSettings
    session: str  # whose turn it uses: one browser, one command
    first_index: int = 0
    num_alternatives: int = 0  # recorded with each token, up to MAX_ALTERNATIVES
    deadline_seconds: float | None = None  # from now, waiting included; then it ends as it is


class Job(ABC):
    """A request on its way. Its worker alone touches it once it has a slot."""

    def __init__(self, session: str, token_ids: Sequence[int], text: IncrementalText) -> None:
        self.session = session
        self.stream = Stream()
        self.deadline = math.inf  # on the clock of time.perf_counter
        self.slot = -1  # until it has one
        self.slot_since = 0.0
        self._token_ids = list(token_ids)
        self._num_read = 0
        self._text = text

    @property
    @abstractmethod
    def num_unread(self) -> int:
        """Return how many tokens the decoder must read before the next answer, at least 1."""

    @abstractmethod
    def next_piece(self, most: int) -> Piece:
        """Return the next tokens to read, at most `most`."""

    @abstractmethod
    def receive(self, piece: Piece, answers: Sequence[Answer]) -> StopReason | None:
        """Take note of what was read and answered; return why the request ends here, if so.

        Raises:
            ModelError: the model answered with something that is no number.
        """


class GenerationJob(Job):
    """A text that is being generated."""

    def __init__(
        self, request: GenerationRequest, checkpoint: Checkpoint, context_length: int
    ) -> None:
        text = IncrementalText(checkpoint.tokenizer, request.prompt_ids)
        super().__init__(request.session, request.prompt_ids, text)
        if request.deadline_seconds is not None:
            self.deadline = self.stream.submitted + request.deadline_seconds
        self._settings = request.settings
        self._num_alternatives = request.num_alternatives
        self._end_tokens = checkpoint.end_tokens
        self._num_prompt_tokens = len(request.prompt_ids)
        self._first_index = request.first_index
        self._context_length = context_length

    @property
    def num_unread(self) -> int:
        """Return what is left of the prompt, or 1: the last token that was drawn."""
        return len(self._token_ids) - self._num_read

    def next_piece(self, most: int) -> Piece:
        """Return part of the prompt; with its end, or the last token, ask what follows."""
        start, length = self._num_read, len(self._token_ids)
        if start + most < length:
            return Piece(self.slot, start, tuple(self._token_ids[start : start + most]))
        index = self._first_index + length - self._num_prompt_tokens
        draw = Draw(self._settings, uniform(self._settings.seed, index), self._num_alternatives)
        return Piece(self.slot, start, tuple(self._token_ids[start:]), draw)

    def receive(self, piece: Piece, answers: Sequence[Answer]) -> StopReason | None:
        """Add the token that was drawn, if one was; an end token ends the text and is not added."""
        self._num_read += len(piece.token_ids)
        for answer in answers:
            token_id = answer.token_id
            if token_id in self._end_tokens:
                return StopReason.END_OF_TEXT
            _check_finite(token_id)
            self._token_ids.append(token_id)
            self.stream.append(self._text.add(token_id), answer)
        length = len(self._token_ids)
        if length - self._num_prompt_tokens >= self._settings.max_new_tokens:
            return StopReason.TOKEN_LIMIT
        return StopReason.CONTEXT_FULL if length >= self._context_length else None


class ScoreJob(Job):
    """A given text whose every token is measured; its first token is only read."""

    def __init__(
        self, token_ids: Sequence[int], checkpoint: Checkpoint, session: str, num_alternatives: int
    ) -> None:
        super().__init__(session, token_ids, IncrementalText(checkpoint.tokenizer, token_ids[:1]))
        self._num_alternatives = num_alternatives

    @property
    def num_unread(self) -> int:
        """Return what is left of the text; nothing follows its last token, so that is not read."""
        return len(self._token_ids) - 1 - self._num_read

    def next_piece(self, most: int) -> Piece:
        """Return part of the text and what follows each of its tokens."""
        start = self._num_read
        end = start + min(most, self.num_unread)
        targets = tuple(self._token_ids[start + 1 : end + 1])
        measure = Measure(targets, self._num_alternatives)
        return Piece(self.slot, start, tuple(self._token_ids[start:end]), measure)

    def receive(self, piece: Piece, answers: Sequence[Answer]) -> StopReason | None:
        """Record what was measured."""
        self._num_read += len(piece.token_ids)
        for answer in answers:
            _check_finite(answer.token_id)
            self.stream.append(self._text.add(answer.token_id), answer)
        return None if self.num_unread else StopReason.TOKEN_LIMIT


def check_request(request: GenerationRequest, vocab_size: int, context_length: int) -> None:
    """Refuse what cannot be generated from.

    Raises:
        PromptError: no prompt tokens, too many, or unknown ones.
        OptionError: a setting is out of its range.
    """
    check(request.settings)
    _check_alternatives(request.num_alternatives)
    seconds, first = request.deadline_seconds, request.first_index
    if seconds is not None and not 0.0 < seconds < math.inf:
        raise OptionError(f"A deadline must be above 0 seconds; got {seconds!r:.80}.")
    if not 0 <= first <= MAX_FIRST_INDEX:
        raise OptionError(f"A text continues after 0 or more tokens; got {first!r:.80}.")
    num_tokens = len(request.prompt_ids)
    if not num_tokens:
        raise PromptError("The prompt is empty. Write a few words to continue.")
    if num_tokens >= context_length:
        raise PromptError(
            f"The prompt has {num_tokens:,} tokens; the context of {context_length:,} must also "
            "hold what is generated. Shorten it."
        )
    _check_known(request.prompt_ids, vocab_size)


def check_score(
    token_ids: Sequence[int], num_alternatives: int, vocab_size: int, context_length: int
) -> None:
    """Refuse what cannot be measured.

    Raises:
        PromptError: fewer than two tokens, more than the context, or unknown ones.
        OptionError: too many alternatives.
    """
    _check_alternatives(num_alternatives)
    if len(token_ids) < 2:
        raise PromptError(
            f"The text has {len(token_ids)} tokens; at least 2 are needed, because a token is "
            "measured by what stands before it. Write a few words."
        )
    if len(token_ids) > context_length:
        raise PromptError(
            f"The text has {len(token_ids):,} tokens; the context holds {context_length:,}. "
            "Shorten it."
        )
    _check_known(token_ids, vocab_size)


def _check_alternatives(number: int) -> None:
    if not isinstance(number, int) or not 0 <= number <= MAX_ALTERNATIVES:
        raise OptionError(
            f"From 0 to {MAX_ALTERNATIVES} alternatives can be recorded; got {number!r:.80}."
        )


def _check_known(token_ids: Sequence[int], vocab_size: int) -> None:
    if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise PromptError("The text holds token ids that this model does not have.")


def _check_finite(token_id: int) -> None:
    if token_id == NOT_FINITE:
        raise ModelError(
            "The model answered with NaN or infinite logits: its weights are damaged or its "
            "training diverged. Choose another checkpoint."
        )
