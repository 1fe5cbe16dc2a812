"""The decoder for processors: int8 or fp32 weights, one compiled call per step.

A row of a step is computed the same way whatever else is in the step, whichever slot it has and
however many threads there are: the same seed gives the same text bit for bit, alone or in a full
room. Agrees with transformers' logits to 1e-4 in fp32 (tests). Not thread-safe: one worker owns it.
"""

import sys
from collections.abc import Sequence

import numpy as np

from stentor.engine.cpu.amx import ROWS_AT_A_TIME
from stentor.engine.cpu.attention import SlotCache
from stentor.engine.cpu.compiled import forget, is_kept
from stentor.engine.cpu.draw import ASK, DRAWN, Asks, make_answers, make_sorting
from stentor.engine.cpu.forward import Buffers, Integers, Place, Rows
from stentor.engine.cpu.packing import (
    Floats,
    Inputs,
    Layout,
    PackedMatrix,
    PackedModel,
    aligned,
    layout_of,
    make_inputs,
    pack_model,
)
from stentor.engine.cpu.step import is_compiled, run_step
from stentor.engine.cpu.team import Team
from stentor.engine.cpu.tile import LANES
from stentor.engine.decoder import Alternative, Answer, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings
from stentor.engine.threads import ThreadBudget
from stentor.loading import Checkpoint, LlamaShape, read_weights

MAX_STEP_TOKENS = 256


def slot_bytes(shape: LlamaShape, context_length: int, precision: str) -> int:
    """Return the size of one slot's keys and values."""
    number = _inputs((0,), precision).itemsize
    per_head = shape.head_dim * number + np.dtype(np.float32).itemsize  # and its scale
    return 2 * shape.num_layers * shape.num_key_value_heads * context_length * per_head


class CpuDecoder:
    """A model with its slots; see decoder.Decoder."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        precision: str,
        num_slots: int,
        context_length: int,
        threads: ThreadBudget,
    ) -> None:
        shape = checkpoint.shape
        layout = layout_of(precision)
        self.precision = precision
        self.num_slots = num_slots
        self.cache_bytes = num_slots * slot_bytes(shape, context_length, precision)
        self._threads = threads
        self._team = Team("stentor-decoder")
        self._model = pack_model(shape, read_weights(checkpoint), context_length, layout)
        self._cache = _make_cache(shape, num_slots, context_length, precision)
        self._seen = np.zeros((num_slots, shape.vocab_size), np.uint8)
        self._buffers = _make_buffers(self._model, shape, context_length, layout, threads.total)
        self._sorting = make_sorting(threads.total, shape.vocab_size)
        self._answers = make_answers(MAX_STEP_TOKENS)
        self._compile()

    def step(self, pieces: Sequence[Piece]) -> list[tuple[Answer, ...]]:
        """Read the pieces and answer what they ask; at most MAX_STEP_TOKENS tokens in all."""
        rows = self._read(pieces)
        wanted, asks = _list_asks(pieces)

        def work(thread: int, num_threads: int) -> None:
            run_step(
                self._model,
                self._cache,
                rows,
                wanted,
                asks,
                self._seen,
                self._buffers,
                self._sorting,
                self._answers,
                Place(self._team.counter, thread, num_threads),
            )

        self._team.run(work, self._threads.share())
        return self._collect(pieces)

    def _compile(self) -> None:
        """Run one step, so that the first visitor does not wait for the compiler."""
        if not is_kept() and not is_compiled():
            print("Compiling the kernels for this processor, once. Half a minute.", file=sys.stderr)
        pieces = [Piece(0, 0, (0,), Draw(SamplingSettings(), 0.0))]
        try:
            self.step(pieces)
        except Exception:  # noqa: BLE001 - Numba reads and writes files: damaged, or a full disk
            forget()
            self.step(pieces)

    def close(self) -> None:
        """End the helper threads."""
        self._team.close()

    def _read(self, pieces: Sequence[Piece]) -> Rows:
        """Return the tokens of the step as rows, and note them as seen."""
        token_ids: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        for piece in pieces:
            if piece.start == 0:
                self._seen[piece.slot] = 0
            for token_id in piece.token_ids:
                self._seen[piece.slot, token_id] = 1
            count = len(piece.token_ids)
            # Compiled code looks at no bounds.
            assert piece.start + count <= len(self._model.cosines), "beyond the context"
            token_ids += piece.token_ids
            slots += [piece.slot] * count
            positions += range(piece.start, piece.start + count)
        assert 0 < len(token_ids) <= MAX_STEP_TOKENS, "a step of no tokens, or of too many"
        return Rows(*(np.array(values, np.int32) for values in (token_ids, slots, positions)))

    def _collect(self, pieces: Sequence[Piece]) -> list[tuple[Answer, ...]]:
        found = self._answers
        columns = (found.token_ids, found.log_probabilities, found.ranks)
        answers = zip(*(column.tolist() for column in columns), strict=True)
        collected = []
        place = 0
        for piece in pieces:
            ask = piece.ask
            count = 0 if ask is None else 1 if isinstance(ask, Draw) else len(ask.targets)
            wanted = 0 if ask is None else min(ask.num_alternatives, self._seen.shape[1])
            given = []
            for _ in range(count):
                token_id, log_probability, rank = next(answers)
                alternatives = self._alternatives(place, wanted)
                given.append(Answer(token_id, log_probability, rank, alternatives))
                place += 1
            collected.append(tuple(given))
        return collected

    def _alternatives(self, place: int, count: int) -> tuple[Alternative, ...]:
        if count == 0:
            return ()
        ids = self._answers.alternative_ids[place, :count].tolist()
        scores = self._answers.alternative_log_probabilities[place, :count].tolist()
        return tuple(Alternative(*pair) for pair in zip(ids, scores, strict=True))


def _list_asks(pieces: Sequence[Piece]) -> tuple[Integers, Asks]:
    """Return the rows after which somebody asks, and what."""
    wanted: list[int] = []
    asks: list[tuple[float, ...]] = []
    end = 0
    for piece in pieces:
        start, end = end, end + len(piece.token_ids)
        ask = piece.ask
        if isinstance(ask, Draw):
            chosen = ask.settings
            wanted.append(end - 1)
            asks.append(
                (
                    DRAWN,
                    piece.slot,
                    ask.num_alternatives,
                    chosen.top_k,
                    chosen.temperature,
                    chosen.repetition_penalty,
                    chosen.top_p,
                    chosen.min_p,
                    ask.number,
                )
            )
        elif isinstance(ask, Measure):
            wanted += range(start, start + len(ask.targets))
            asks += [
                (target, piece.slot, ask.num_alternatives, 0, 0.0, 1.0, 1.0, 0.0, 0.0)
                for target in ask.targets
            ]
    return np.array(wanted, np.int32), np.array(asks, ASK)


def _inputs(size: tuple[int, ...], precision: str) -> Inputs:
    return aligned(size, np.int16) if precision == "int8" else aligned(size, np.float32)


def _make_cache(
    shape: LlamaShape, num_slots: int, context_length: int, precision: str
) -> SlotCache:
    size = shape.num_layers, num_slots, context_length, shape.num_key_value_heads
    # Not zeroed: the machine gives memory when a slot is first used that far.
    keys, values = (_inputs((*size, shape.head_dim), precision) for _ in range(2))
    return SlotCache(keys, values, np.ones(size, np.float32), np.ones(size, np.float32))


def _make_buffers(
    model: PackedModel, shape: LlamaShape, context_length: int, layout: Layout, num_threads: int
) -> Buffers:
    num_rows = MAX_STEP_TOKENS + ROWS_AT_A_TIME  # a tile may reach beyond the last row
    attended = shape.num_heads * shape.head_dim
    widest = max(shape.hidden_size, attended, shape.intermediate_size)

    scratch = max(widest, shape.num_heads * context_length)

    def outputs(*matrices: PackedMatrix) -> Floats:
        # Not a power of two, for the first-level cache: see make_inputs.
        width = max(matrix.scales.shape[1] for matrix in matrices) + LANES
        return aligned((num_rows, width), np.float32)

    return Buffers(
        hidden=outputs(model.attention_output, model.down),
        inputs=make_inputs(num_rows, widest, layout),
        row_scales=np.zeros(num_rows, np.float32),
        projected=outputs(model.query_key_value),
        attended=aligned((num_rows, attended + LANES), np.float32),
        gate_up=outputs(model.gate_up),
        scratch=np.zeros((num_threads, scratch), np.float32),
        logits=outputs(model.head),
    )
