"""The decoder for CUDA devices: bf16, with the work of a step captured in CUDA graphs.

A step reads its tokens in passes of PASS_ROWS rows (torch_llama.py), one graph for each span of
positions, and draws in batches padded to a power of two, one graph for each. Padding goes to a
spare slot. Measures and alternatives, asked more rarely, are launched plainly. Where a capture
fails everything is, after one line that says so. The same class runs on the CPU in fp32, for tests.

No row influences another: sums stay inside a row, every pass has one shape, a row's span follows
from its own position, so no kernel is chosen by who else is there; masses are summed exactly
(torch_sampling.py). The limit of this promise: cuBLAS documents equal bits for equal calls on one
GPU model with one library version (its guide, "Results reproducibility"), not that a row's bits are
the same at each of the 64 places; the tests marked gpu check that. Another GPU model or version of
torch may give another text for the same seed.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from stentor.engine.decoder import Alternative, Answer, Piece
from stentor.engine.torch_graphs import Capture, CudaCapture, Graphs, Outputs, release_memory
from stentor.engine.torch_llama import PASS_ROWS, SlotCache, TorchLlama
from stentor.engine.torch_plan import Limits, Pass, Question, Row, count_questions, plan_step
from stentor.engine.torch_sampling import (
    GREEDY_COLUMNS,
    choose,
    draw_columns,
    likeliest,
    measure,
    seen_tokens,
)
from stentor.errors import ModelError
from stentor.loading import Checkpoint, read_weights

# One row of what is sent about a question, all exact as doubles: the place of its row, slot,
# position, target; then the columns of a draw.
NUM_PLACE_COLUMNS = 4


class _Batch(NamedTuple):
    """Questions of one kind answered at once, those that want alternatives first."""

    numbers: list[int]  # of the questions in the plan; at most PASS_ROWS
    questions: list[Question]
    table: Tensor  # [rows, NUM_PLACE_COLUMNS + draw columns]; rows beyond the questions are padding


class _Found(NamedTuple):
    """The answers to a batch, still on the device."""

    measured: Tensor  # [questions, 3]: see measure
    alternatives: tuple[Tensor, Tensor]  # [questions that want some, the most that one wants]


class TorchDecoder:
    """A model with its slots; see decoder.Decoder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        num_slots: int,
        context_length: int,
        capture: Capture | None = None,
    ) -> None:
        """`capture`: how graphs are recorded; None is CUDA's way on CUDA, none elsewhere.

        Raises:
            ModelError: the weights cannot be read, or the device's memory is too small.
        """
        is_cuda = device.type == "cuda"
        dtype = torch.bfloat16 if is_cuda else torch.float32
        shape = checkpoint.shape
        self.precision = "bf16" if is_cuda else "fp32"
        self.num_slots = num_slots
        self._device = device
        self._limits = Limits(num_slots, context_length, shape.vocab_size)
        try:
            self._cache = SlotCache(shape, num_slots, context_length, device, dtype)
            weights = read_weights(checkpoint)
            self._model = TorchLlama(shape, weights, self._cache.capacity, device, dtype)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"The memory of {device} is too small for this model and {num_slots} requests of "
                f"{context_length:,} tokens at a time. Choose the precision int8, on the CPU."
            ) from error
        self.cache_bytes = self._cache.num_bytes
        with self._on_device():
            self._graphs = Graphs(CudaCapture() if capture is None and is_cuda else capture)
            self._capture_all()

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece]) -> list[tuple[Answer, ...]]:
        """Read the pieces, at most one for a slot; return each piece's answers."""
        plan = plan_step(pieces, self._limits, self._cache.spans, PASS_ROWS)
        with self._on_device():
            # Everything is sent before anything runs: a copy from the host waits for the device.
            rows = self._send_rows(plan.passes)
            batches = self._send_questions(plan.questions)
            self._cache.clear([piece.slot for piece in pieces if piece.start == 0])
            spans = [one.span for one in plan.passes]
            hidden = torch.cat([self._read(*one) for one in zip(rows, spans, strict=True)])
            found = [self._answer(batch, hidden) for batch in batches]
            answers = iter(_fetch(batches, found))
        return [tuple(islice(answers, count_questions(piece))) for piece in pieces]

    def close(self) -> None:
        """Free the weights, the cache and the graphs; no step may follow."""
        self._graphs.clear()
        del self._model, self._cache
        release_memory()

    @property
    def is_captured(self) -> bool:
        """Tell whether steps run as graphs."""
        return self._graphs.is_capturing

    def _on_device(self) -> AbstractContextManager[None]:
        """Make the device the current one, which every thread has of its own."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    @torch.inference_mode()
    def _capture_all(self) -> None:
        """Capture every graph before the first request, so that none waits for it."""
        spans = self._cache.spans if self._graphs.is_capturing else []
        for span in spans:
            hidden = self._read(self._send_rows([Pass(span, [])])[0], span)
        num_rows = 1
        while self._graphs.is_capturing and num_rows < 2 * min(self.num_slots, PASS_ROWS):
            self._draw(hidden[:num_rows], self._send_table([], num_rows))
            num_rows *= 2

    def _send_rows(self, passes: list[Pass]) -> Tensor:
        """Return the rows of each pass [passes, 3, PASS_ROWS], padded: see TorchLlama.read."""
        padding = Row(0, self._cache.spare_slot, 0)
        rows = [one.rows + [padding] * (PASS_ROWS - len(one.rows)) for one in passes]
        return torch.tensor(rows, device=self._device).transpose(1, 2).contiguous()

    def _send_questions(self, questions: list[Question]) -> list[_Batch]:
        """Return the draws, padded to powers of two, and the measures."""
        batches = []
        for is_draw in (True, False):
            wanted = [
                number
                for number, question in enumerate(questions)
                if (question.draw is not None) == is_draw
            ]
            wanted.sort(key=lambda number: questions[number].num_alternatives == 0)
            for start in range(0, len(wanted), PASS_ROWS):
                numbers = wanted[start : start + PASS_ROWS]
                asked = [questions[number] for number in numbers]
                size = 1 << (len(asked) - 1).bit_length() if is_draw else len(asked)
                batches.append(_Batch(numbers, asked, self._send_table(asked, size)))
        return batches

    def _send_table(self, questions: list[Question], num_rows: int) -> Tensor:
        padding = (0.0, float(self._cache.spare_slot), 0.0, 0.0, *GREEDY_COLUMNS)
        rows: list[tuple[float, ...]] = [padding] * num_rows
        for number, question in enumerate(questions):
            draw = GREEDY_COLUMNS if question.draw is None else draw_columns(question.draw)
            _, slot, position = question.row
            rows[number] = (question.place, slot, position, question.target, *draw)
        return torch.tensor(rows, dtype=torch.float64, device=self._device)

    def _read(self, rows: Tensor, span: int) -> Tensor:
        """Run one pass; return its hidden states [PASS_ROWS, hidden]."""

        def read(rows: Tensor) -> Outputs:
            return (self._model.read(self._cache, rows, span),)

        return self._graphs.run(("read", span), read, rows)[0].clone()

    def _draw(self, hidden: Tensor, table: Tensor) -> Outputs:
        """Return what was drawn [rows, 3] after `hidden` [rows, hidden], and the logits."""

        def draw(hidden: Tensor, table: Tensor) -> Outputs:
            _, slots, positions, _ = table[:, :NUM_PLACE_COLUMNS].long().unbind(1)
            logits = self._model.logits(hidden)
            token_ids = self._cache.token_ids.index_select(0, slots)
            seen = seen_tokens(token_ids, positions, self._limits.vocab_size)
            chosen = choose(logits, seen, table[:, NUM_PLACE_COLUMNS:])
            return measure(logits, chosen), logits

        return self._graphs.run(("draw", len(table)), draw, hidden, table)

    def _answer(self, batch: _Batch, hidden: Tensor) -> _Found:
        """Answer a batch from the hidden states of all passes."""
        places, _, _, targets = batch.table[:, :NUM_PLACE_COLUMNS].long().unbind(1)
        asked = hidden.index_select(0, places)
        if batch.questions[0].draw is not None:
            measured, logits = self._draw(asked, batch.table)
        else:
            logits = self._model.logits(asked)
            measured = measure(logits, targets)
        counts = [question.num_alternatives for question in batch.questions]
        num_wanting = sum(number > 0 for number in counts)
        # Copies, as the next batch may run the same graph.
        alternatives = likeliest(logits[:num_wanting], max(counts))
        return _Found(measured[: len(counts)].clone(), alternatives)


def _fetch(batches: list[_Batch], found: list[_Found]) -> list[Answer]:
    """Return the answers in the order of the questions; waits for the device."""
    answers: dict[int, Answer] = {}
    for batch, (measured, alternatives) in zip(batches, found, strict=True):
        listed = (column.tolist() for column in alternatives)
        likely = [tuple(map(Alternative, *columns)) for columns in zip(*listed, strict=True)]
        likely += [()] * (len(batch.questions) - len(likely))
        rows = zip(batch.numbers, batch.questions, measured.tolist(), likely, strict=True)
        for number, question, (token_id, log_probability, rank), alternative in rows:
            wanted = alternative[: question.num_alternatives]
            answers[number] = Answer(int(token_id), log_probability, int(rank), wanted)
    return [answers[number] for number in range(len(answers))]
