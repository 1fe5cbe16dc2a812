"""One step of a Llama on the CPU: rows of tokens in, logits after some of them out.

Every thread of a team runs `forward` and does its share of each part; `meet` separates the
parts. A row is one token of any request at any position: prompts and new tokens are read alike.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stentor.engine.cpu.attention import Heads, SlotCache, attend, remember
from stentor.engine.cpu.compiled import compiled
from stentor.engine.cpu.kernels import rms_norm, store_inputs, swiglu
from stentor.engine.cpu.linear import linear
from stentor.engine.cpu.packing import Floats, Inputs, PackedMatrix, PackedModel
from stentor.engine.cpu.team import Counter, meet
from stentor.engine.cpu.tile import LANES

Integers = NDArray[np.int32]


class Rows(NamedTuple):
    """The tokens of a step, [rows] each."""

    token_ids: Integers
    slots: Integers
    positions: Integers


class Buffers(NamedTuple):
    """Room for one step's intermediate results; rows beyond the last are written too."""

    hidden: Floats  # [rows, hidden]
    inputs: Inputs  # [rows, widest input of a matrix]: what the next matrix reads
    row_scales: Floats  # [rows]
    projected: Floats  # [rows, queries + keys + values]
    attended: Floats  # [rows, heads * head_dim]
    gate_up: Floats  # [rows, 2 * intermediate]
    scratch: Floats  # [threads, enough for one row of anything]
    logits: Floats  # [rows, vocabulary padded to LANES]


class Place(NamedTuple):
    """Which thread of how many this is, and the counter at which they meet."""

    counter: Counter
    thread: int
    num_threads: int


@compiled()
def _embed(matrix: PackedMatrix, token_id: int, out: Floats) -> None:
    """Write the row of one token of a packed matrix."""
    block, lane = token_id // LANES, token_id % LANES
    group = matrix.blocks.shape[3] // LANES
    scale = matrix.scales[0, token_id]
    for index in range(out.size):
        place = lane * group + index % group
        out[index] = np.float32(matrix.blocks[0, block, index // group, place]) * scale


@compiled()
def _normalise(
    model: PackedModel, gain: Floats, limit: float, buffers: Buffers, row: int, thread: int
) -> None:
    """Prepare one row of `hidden` as the input of the next matrix."""
    hidden = buffers.hidden[row, : gain.size]
    normed = buffers.scratch[thread, : gain.size]
    rms_norm(hidden, gain, model.epsilon, normed)
    store_inputs(normed, limit, buffers.inputs, buffers.row_scales, row)


@compiled()
def _project(
    matrix: PackedMatrix, layer: int, count: int, buffers: Buffers, out: Floats, team: Place
) -> None:
    """Multiply the prepared inputs of `count` rows by one layer's matrix."""
    blocks, scales = matrix.blocks[layer], matrix.scales[layer]
    linear(
        buffers.inputs, buffers.row_scales, count, blocks, scales, out, matrix.is_added,
        team.thread, team.num_threads,
    )  # fmt: skip


@compiled()
def _attention(
    model: PackedModel,
    cache: SlotCache,
    rows: Rows,
    buffers: Buffers,
    layer: int,
    arrivals: int,
    team: Place,
) -> int:
    """Add one layer's attention to `hidden`; its normalised input is ready."""
    count, scratch = rows.slots.size, buffers.scratch[team.thread]
    num_kv_heads, head_dim = cache.keys.shape[3], cache.keys.shape[4]
    num_heads = model.attention_output.num_inputs // head_dim
    _project(model.query_key_value, layer, count, buffers, buffers.projected, team)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    width = (num_heads + 2 * num_kv_heads) * head_dim
    for row in range(team.thread, count, team.num_threads):
        projected = buffers.projected[row, :width]
        remember(projected, model, cache, layer, rows.slots[row], rows.positions[row])
    arrivals = meet(team.counter, arrivals, team.num_threads)
    # A task is a row: its keys are read in one direction. Fewer rows than threads are split.
    parts = 1 if count >= team.num_threads else num_kv_heads
    size, group = num_kv_heads // parts, num_heads // num_kv_heads
    for task in range(team.thread, count * parts, team.num_threads):
        row, first = task // parts, task % parts * size
        seen = rows.positions[row] + 1
        scores = scratch[: size * group * seen].reshape((size * group, seen))
        heads = Heads(first, first + size, group)
        queries, outputs = buffers.projected[row], buffers.attended[row]
        attend(queries, cache, layer, rows.slots[row], heads, scores, outputs)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    matrix = model.attention_output
    for row in range(team.thread, count, team.num_threads):
        attended = buffers.attended[row, : matrix.num_inputs]
        store_inputs(attended, matrix.limit, buffers.inputs, buffers.row_scales, row)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    _project(matrix, layer, count, buffers, buffers.hidden, team)
    return meet(team.counter, arrivals, team.num_threads)


@compiled()
def _feed_forward(
    model: PackedModel, count: int, buffers: Buffers, layer: int, arrivals: int, team: Place
) -> int:
    """Add one layer's gated feed-forward network to `hidden`."""
    gain, limit = model.attention_gains[layer], model.gate_up.limit
    for row in range(team.thread, count, team.num_threads):
        _normalise(model, gain, limit, buffers, row, team.thread)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    _project(model.gate_up, layer, count, buffers, buffers.gate_up, team)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    matrix = model.down
    activated = buffers.scratch[team.thread, : matrix.num_inputs]
    for row in range(team.thread, count, team.num_threads):
        swiglu(buffers.gate_up[row], activated)
        store_inputs(activated, matrix.limit, buffers.inputs, buffers.row_scales, row)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    _project(matrix, layer, count, buffers, buffers.hidden, team)
    return meet(team.counter, arrivals, team.num_threads)


@compiled()
def forward(
    model: PackedModel,
    cache: SlotCache,
    rows: Rows,
    wanted: Integers,
    buffers: Buffers,
    team: Place,
) -> int:
    """Read all rows; write the logits after the `wanted` ones to buffers.logits, in their order."""
    count, arrivals = rows.slots.size, 0
    num_layers, size = model.input_gains.shape
    for row in range(team.thread, count, team.num_threads):
        _embed(model.embedding, rows.token_ids[row], buffers.hidden[row, :size])
    for layer in range(num_layers):
        gain, limit = model.input_gains[layer], model.query_key_value.limit
        for row in range(team.thread, count, team.num_threads):
            _normalise(model, gain, limit, buffers, row, team.thread)
        arrivals = meet(team.counter, arrivals, team.num_threads)
        arrivals = _attention(model, cache, rows, buffers, layer, arrivals, team)
        arrivals = _feed_forward(model, count, buffers, layer, arrivals, team)
    normed = buffers.scratch[team.thread, :size]
    for place in range(team.thread, wanted.size, team.num_threads):
        rms_norm(buffers.hidden[wanted[place], :size], model.final_gain, model.epsilon, normed)
        store_inputs(normed, model.head.limit, buffers.inputs, buffers.row_scales, place)
    arrivals = meet(team.counter, arrivals, team.num_threads)
    if wanted.size > 0:
        for layer in range(model.head.blocks.shape[0]):  # one; a plain 0 has a type of its own
            _project(model.head, layer, wanted.size, buffers, buffers.logits, team)
    return meet(team.counter, arrivals, team.num_threads)
