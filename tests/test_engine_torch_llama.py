"""A pass agrees with transformers in fp32, is near it in bf16, and can be captured."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_models import CONTEXT, CPU, SHAPES, random_ids, write_llama
from transformers import LlamaForCausalLM

from stentor.engine.torch_llama import PASS_ROWS, SlotCache, TorchLlama
from stentor.loading import Checkpoint, open_checkpoint_folder, read_weights

Case = tuple[Checkpoint, LlamaForCausalLM]


@pytest.fixture(scope="module", params=SHAPES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder: Path = tmp_path_factory.mktemp(request.param)
    model = write_llama(folder, request.param)
    return open_checkpoint_folder(folder), model


def open_model(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[TorchLlama, SlotCache]:
    cache = SlotCache(checkpoint.shape, 3, CONTEXT, CPU, dtype)
    weights = read_weights(checkpoint)
    return TorchLlama(checkpoint.shape, weights, cache.capacity, CPU, dtype), cache


@torch.inference_mode()
def read_all(model: TorchLlama, cache: SlotCache, ids: tuple[int, ...]) -> Tensor:
    """Return the logits after every token, read into slot 1 in passes of 50 rows."""
    logits = []
    for start in range(0, len(ids), 50):
        rows = torch.zeros(3, PASS_ROWS, dtype=torch.int64)
        rows[1] = cache.spare_slot
        part = torch.tensor(ids[start : start + 50])
        count = len(part)
        rows[:, :count] = torch.stack((part, torch.ones_like(part), start + torch.arange(count)))
        span = next(span for span in cache.spans if span >= start + count)
        logits.append(model.logits(model.read(cache, rows, span)[:count]))
    return torch.cat(logits)


def test_logits_agree_with_transformers_in_fp32(case: Case) -> None:
    checkpoint, reference = case
    ids = random_ids(checkpoint, 200, seed=3)
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0]
    received = read_all(*open_model(checkpoint, torch.float32), ids)
    assert received.dtype == torch.float32
    assert (received - expected).abs().max().item() < 1e-4


def test_bf16_is_near_fp32(case: Case) -> None:
    """Rounding to 8 bits: the mean log-probability of a text moves by less than 0.01 nats."""
    checkpoint, _ = case
    ids = random_ids(checkpoint, 120, seed=4)
    targets = torch.tensor([[*ids[1:], 0]]).T

    def mean(dtype: torch.dtype) -> float:
        logits = read_all(*open_model(checkpoint, dtype), ids)
        return logits.log_softmax(-1).gather(1, targets).mean().item()

    assert mean(torch.bfloat16) == pytest.approx(mean(torch.float32), abs=0.01)


def test_the_cache_is_bounded_and_its_spans_cover_it(case: Case) -> None:
    shape = case[0].shape
    cache = SlotCache(shape, 5, 500, CPU, torch.float32)
    assert cache.spans == [128, 256, 512], "500 is rounded up for the attention kernels"
    positions = 6 * 512  # a spare slot for padding
    vectors = 2 * shape.num_layers * positions * shape.num_key_value_heads
    assert cache.num_bytes == vectors * shape.head_dim * 4
    assert SlotCache(shape, 1, 100, CPU, torch.float32).spans == [112]


def test_a_cleared_slot_holds_nothing_of_a_broken_request(case: Case) -> None:
    """A weight of 0 times the NaN that an earlier request left was NaN."""
    checkpoint, _ = case
    ids = random_ids(checkpoint, 20, seed=6)
    model, cache = open_model(checkpoint, torch.float32)
    expected = read_all(model, cache, ids)
    cache.keys[:, 1] = torch.nan
    cache.values[:, 1] = torch.nan
    assert read_all(model, cache, ids).isnan().any()
    cache.keys[:, 2] = 5.0
    cache.clear([1])
    assert torch.equal(read_all(model, cache, ids), expected)
    assert (cache.keys[:, 2] == 5.0).all(), "another slot"
