"""From a checkpoint and a precision to a decoder whose keys and values fit into memory.

The only place that knows both decoders. The size of the cache is bounded before it is allocated:
fewer slots where the model is large or the machine is small, at least one.
"""

import psutil
import torch

from stentor.engine import cpu_decoder
from stentor.engine.cpu_decoder import CpuDecoder
from stentor.engine.decoder import Decoder
from stentor.engine.scheduler import PROMPT_TOKENS_PER_STEP
from stentor.engine.threads import ThreadBudget
from stentor.engine.torch_decoder import TorchDecoder
from stentor.loading import Checkpoint, LlamaShape

# Of the keys and values of one model in main memory: several models and the page share a laptop.
MAX_CACHE_BYTES = 3 * 2**30
# A cache takes at most one part in this many of the memory of its device.
MEMORY_SHARE = 4
# A config may claim any context; a slot is allocated for the whole of it.
MAX_CONTEXT = 4096


def open_decoder(
    checkpoint: Checkpoint, *, precision: str, num_slots: int, threads: ThreadBudget
) -> Decoder:
    """Load the weights and make the slots, as many of `num_slots` as memory holds.

    `precision` is one that `resolve` returned.

    Raises:
        ModelError: the weights cannot be read.
    """
    context = context_length(checkpoint.shape)
    num_slots = min(num_slots, max_slots(checkpoint.shape, precision))
    if precision == "bf16":
        device = torch.device("cuda")
        return TorchDecoder(checkpoint, device=device, num_slots=num_slots, context_length=context)
    return CpuDecoder(
        checkpoint,
        precision=precision,
        num_slots=num_slots,
        context_length=context,
        threads=threads,
    )


def context_length(shape: LlamaShape) -> int:
    """Return how many tokens a slot holds."""
    return min(shape.context_length, MAX_CONTEXT)


def max_slots(shape: LlamaShape, precision: str) -> int:
    """Return how many slots the memory of the device and a step have room for, at least 1."""
    if precision == "bf16":
        limit = int(torch.cuda.mem_get_info()[1]) // MEMORY_SHARE
        return max(1, limit // _cuda_slot_bytes(shape) - 1)  # its padding takes one more
    limit = min(MAX_CACHE_BYTES, int(psutil.virtual_memory().total) // MEMORY_SHARE)
    in_memory = limit // cpu_decoder.slot_bytes(shape, context_length(shape), precision)
    return max(1, min(in_memory, cpu_decoder.MAX_STEP_TOKENS - PROMPT_TOKENS_PER_STEP))


def _cuda_slot_bytes(shape: LlamaShape) -> int:
    """Return the size of one slot's keys and values in 16 bits."""
    num_values = 2 * shape.num_layers * shape.num_key_value_heads * shape.head_dim
    return 2 * num_values * context_length(shape)
