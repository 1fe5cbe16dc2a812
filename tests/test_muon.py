"""Muon: singular values, its steps against PyTorch's own, and what it leaves to AdamW."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.muon import Muon, muon_matrices, orthogonalised
from training.optim import make_optimizer
from training.settings import PretrainSettings

SETTINGS = PretrainSettings(optimizer="muon", learning_rate=0.01, weight_decay=0.1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def muon_of(matrices: list[torch.nn.Parameter]) -> Muon:
    other = torch.nn.Parameter(torch.zeros(3))
    adamw = torch.optim.AdamW([other], lr=0.01)
    return Muon(matrices, adamw, 0.01, 0.1)


@pytest.mark.parametrize("shape", [(64, 64), (64, 192), (192, 64)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    matrices = random(3, *shape)
    results = orthogonalised(matrices)
    for matrix, result in zip(matrices, results, strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        turned = left.T @ result @ right.T
        diagonal = turned.diagonal()
        wanted = values > 0.02 * values.max()  # smaller ones need more than five iterations
        assert diagonal[wanted].min() > 0.6 and diagonal[wanted].max() < 1.3
        assert (turned - torch.diag(diagonal)).abs().max() < 0.1


def test_nothing_and_enormous_gradients_give_numbers() -> None:
    results = orthogonalised(torch.stack([torch.zeros(8, 8), random(8, 8) * 1e12]))
    assert results.isfinite().all() and not results[0].any()


def gradients(count: int, shape: tuple[int, int]) -> Iterator[list[Tensor]]:
    for step in range(4):
        yield [random(*shape, seed=10 * step + place) for place in range(count)]


def test_its_steps_are_near_those_of_torch_which_computes_in_bf16() -> None:
    shape = (48, 96)
    ours, theirs = (
        [torch.nn.Parameter(random(*shape, seed=place)) for place in range(2)] for _ in range(2)
    )
    mine = muon_of(ours)
    reference = torch.optim.Muon(
        theirs, lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    before = [matrix.detach().clone() for matrix in ours]
    for step in gradients(2, shape):
        for one, two, gradient in zip(ours, theirs, step, strict=True):
            one.grad, two.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()  # type: ignore[no-untyped-call]
    for start, one, two in zip(before, ours, theirs, strict=True):
        moved, expected = one.detach() - start, two.detach() - start
        assert (moved - expected).norm() < 0.05 * expected.norm()


def test_a_matrix_without_a_gradient_stays() -> None:
    still, moved = (torch.nn.Parameter(random(16, 16, seed=seed)) for seed in range(2))
    before = still.detach().clone()
    moved.grad = random(16, 16, seed=2)
    optimizer = muon_of([still, moved])
    optimizer.step()
    assert torch.equal(still, before) and "momentum_buffer" not in optimizer.state[still]


def test_a_step_of_a_model_moves_all_and_keeps_what_belongs(tiny_model_folder: Path) -> None:
    model = load_model(open_checkpoint_folder(tiny_model_folder))
    optimizer = make_optimizer(model, SETTINGS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = random(*parameter.shape)
    optimizer.step()
    own = muon_matrices(optimizer)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        kept = {"momentum_buffer"} if id(parameter) in own else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimizer.state[parameter]) == kept, name
    assert not muon_matrices(make_optimizer(model, replace(SETTINGS, optimizer="adamw")))
