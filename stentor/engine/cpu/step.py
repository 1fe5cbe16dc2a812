"""One step as Python calls it: the layers, then the answers. One call per thread of the team."""

import numpy as np
from numpy.typing import NDArray

from stentor.engine.cpu.attention import SlotCache
from stentor.engine.cpu.compiled import compiled_entry
from stentor.engine.cpu.draw import Answers, Asks, Sorting, answer
from stentor.engine.cpu.forward import Buffers, Integers, Place, Rows, forward
from stentor.engine.cpu.packing import PackedModel


@compiled_entry
def run_step(
    model: PackedModel,
    cache: SlotCache,
    rows: Rows,
    wanted: Integers,
    asks: Asks,
    seen: NDArray[np.uint8],
    buffers: Buffers,
    sorting: Sorting,
    answers: Answers,
    team: Place,
) -> None:
    """Do one thread's share of a step; `sorting` holds [threads, vocabulary] arrays."""
    forward(model, cache, rows, wanted, buffers, team)
    vocab_size, thread = seen.shape[1], team.thread
    room = Sorting(
        sorting.logits[thread],
        sorting.probabilities[thread],
        sorting.ids[thread],
        sorting.other_ids[thread],
    )
    for place in range(thread, wanted.size, team.num_threads):
        ask = asks[place]
        answer(buffers.logits[place, :vocab_size], seen[ask.slot], ask, room, answers, place)


def is_compiled() -> bool:
    """Tell whether this process has compiled or loaded a step before."""
    return bool(run_step.signatures)  # type: ignore[attr-defined] # Numba's dispatcher
