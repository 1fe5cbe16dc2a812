"""Which decoder, and how many slots: keys and values stay within the memory there is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from stentor.engine import cpu_decoder
from stentor.engine.decoders import (
    MAX_CACHE_BYTES,
    MAX_CONTEXT,
    MEMORY_SHARE,
    context_length,
    max_slots,
    open_decoder,
)
from stentor.engine.scheduler import PROMPT_TOKENS_PER_STEP
from stentor.engine.threads import ThreadBudget
from stentor.loading import Checkpoint, LlamaShape, open_checkpoint_folder

GIB = 2**30
STENTOR_BIG = LlamaShape(
    vocab_size=32_771,
    hidden_size=512,
    intermediate_size=2048,
    num_layers=30,
    num_heads=8,
    num_key_value_heads=8,
    head_dim=64,
    context_length=512,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    is_tied=True,
)


@pytest.fixture
def checkpoint(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Say how much memory the machine has; 16 GiB unless a test says otherwise."""
    installed = SimpleNamespace(total=16 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: installed)
    yield installed


def slot_bytes(shape: LlamaShape, precision: str) -> int:
    return cpu_decoder.slot_bytes(shape, context_length(shape), precision)


def cache_bytes(shape: LlamaShape, precision: str) -> int:
    return max_slots(shape, precision) * slot_bytes(shape, precision)


def test_a_class_of_thirty_fits_on_a_laptop_of_eight_gigabytes(memory: SimpleNamespace) -> None:
    memory.total = 8 * GIB
    assert max_slots(STENTOR_BIG, "int8") >= 30


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_cache_keeps_to_its_bound(memory: SimpleNamespace, precision: str) -> None:
    large = replace(STENTOR_BIG, num_layers=60, context_length=2048)
    assert cache_bytes(large, precision) <= MAX_CACHE_BYTES
    memory.total = 4 * GIB
    assert cache_bytes(large, precision) <= GIB == memory.total // MEMORY_SHARE


@pytest.mark.usefixtures("memory")
def test_a_model_too_large_for_the_bound_still_gets_one_slot() -> None:
    huge = replace(STENTOR_BIG, num_layers=1000, context_length=1 << 30)
    assert context_length(huge) == MAX_CONTEXT, "a config may claim any length"
    assert max_slots(huge, "int8") == 1


@pytest.mark.usefixtures("memory")
def test_a_step_has_room_for_everyone_and_a_prompt(checkpoint: Checkpoint) -> None:
    most = max_slots(checkpoint.shape, "int8")
    assert most + PROMPT_TOKENS_PER_STEP <= cpu_decoder.MAX_STEP_TOKENS


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_the_decoder_is_what_was_asked_for(
    checkpoint: Checkpoint, memory: SimpleNamespace, precision: str
) -> None:
    threads = ThreadBudget(1)
    decoder = open_decoder(checkpoint, precision=precision, num_slots=5, threads=threads)
    assert (decoder.precision, decoder.num_slots) == (precision, 5)
    assert decoder.cache_bytes == 5 * slot_bytes(checkpoint.shape, precision)
    decoder.close()
    memory.total = 3 * MEMORY_SHARE * slot_bytes(checkpoint.shape, precision)
    decoder = open_decoder(checkpoint, precision=precision, num_slots=5, threads=threads)
    assert decoder.num_slots == 3, "memory for three"
    decoder.close()
