"""The peak that utilisation is told against: of all workers, and no trace of it in a training."""

from collections.abc import Iterator

import pytest
import torch

from stentor.provenance import num_cores
from training import ceiling
from training.ceiling import ceiling_flops
from training.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    ceiling._measured.cache_clear()
    yield
    ceiling._measured.cache_clear()


def workers_of(device: torch.device, rank: int, count: int) -> Workers:
    workers = Workers(device)
    workers.rank, workers.num_workers = rank, count
    return workers


def test_it_is_measured_once_and_leaves_no_trace() -> None:
    states, threads = torch.random.get_rng_state(), torch.get_num_threads()
    found = ceiling_flops(Workers(CPU), "fp32")
    assert found is not None and found > 1e8
    assert ceiling_flops(Workers(CPU), "fp32") == found, "measured twice, it would differ"
    assert torch.equal(torch.random.get_rng_state(), states)
    assert torch.get_num_threads() == threads


def test_workers_of_one_machine_share_what_it_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has some of its cores: the rate of one of them, twice, is not that of both."""
    asked: list[tuple[int, float]] = []

    def measure(device: torch.device, precision: str, seconds: float) -> float:
        asked.append((torch.get_num_threads(), seconds))
        return 1e10

    monkeypatch.setattr(ceiling, "measure_matmul_ceiling", measure)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    before = torch.get_num_threads()
    assert ceiling_flops(workers_of(CPU, 0, 2), "fp32") == 1e10
    assert ceiling_flops(workers_of(CPU, 0, 4), "fp32") == 2e10, "two machines, two workers each"
    assert asked == [(min(num_cores(), 2 * before), ceiling.CEILING_SECONDS)]
    assert torch.get_num_threads() == before


def test_each_worker_with_a_gpu_adds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "measure_matmul_ceiling", lambda *_: 1e14)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert ceiling_flops(workers_of(torch.device("cuda"), 0, 2), "bf16") == 2e14


def test_no_memory_for_it_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ceiling, "measure_matmul_ceiling", refuse)
    assert ceiling_flops(Workers(CPU), "fp32") is None


def test_the_main_worker_alone_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "measure_matmul_ceiling", lambda *_: pytest.fail("measured"))
    assert ceiling_flops(workers_of(CPU, 1, 2), "fp32") is None
