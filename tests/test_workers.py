"""A worker alone: no process group, no cost. Two of them: test_two_processes.py."""

from pathlib import Path

import pytest
import torch
from torch import nn

from stentor.errors import TrainingError
from stentor.provenance import num_cores
from training.workers import Workers, is_lost_worker, open_workers, unwrapped, without_averaging


@pytest.fixture
def alone() -> Workers:
    return Workers(torch.device("cpu"))


def test_one_worker_pays_nothing_for_the_others(alone: Workers) -> None:
    assert (alone.rank, alone.num_workers, alone.is_main) == (0, 1, True)
    network = nn.Linear(3, 2)
    assert alone.prepare(network) is network
    assert unwrapped(network) is network
    with without_averaging(network):
        pass
    value = torch.tensor([1.0, 2.0])
    assert alone.sum(value) is value
    assert torch.equal(alone.mean(value), value)
    assert (alone.any(True), alone.any(False)) == (True, False)
    assert alone.any_of([True, False, True]) == (True, False, True)
    assert alone.of_main(7) == 7
    alone.wait()
    alone.close()
    assert not torch.distributed.is_initialized()


def test_one_worker_has_every_row(alone: Workers) -> None:
    batch = torch.arange(12).view(4, 3)
    assert torch.equal(alone.share(batch), batch)


def test_threads_are_those_asked_for_or_this_workers_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    before = torch.get_num_threads()
    try:
        assert open_workers(num_threads=3).num_workers == 1
        assert torch.get_num_threads() == 3
        open_workers()
        assert torch.get_num_threads() == num_cores()
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(4 * num_cores()))
        open_workers()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_more_workers_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand with too large a number; NCCL would say `Duplicate GPU detected`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match=r"2 workers were started on a machine with 1 GPU"):
        open_workers(num_threads=1)


def test_a_lost_worker_is_told_from_other_errors(tmp_path: Path) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]")
    assert is_lost_worker(lost)
    assert is_lost_worker(torch.distributed.DistNetworkError("store"))
    assert not is_lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost_worker(OSError(str(tmp_path)))
