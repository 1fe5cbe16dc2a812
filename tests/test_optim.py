"""AdamW and its groups."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.optim import BETAS, make_optimizer, set_learning_rate


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


def test_matrices_decay_and_gains_do_not(model: LlamaForCausalLM) -> None:
    decayed, kept = make_optimizer(model, 1e-3, 0.01).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert len(kept["params"]) == 2 * 2 + 1  # two gains a layer, and the final one
    # The tied head is the embedding: it is there once.
    count = sum(p.numel() for group in (decayed, kept) for p in group["params"])
    assert count == model.num_parameters()


def test_decay_without_gradients_moves_matrices_only(model: LlamaForCausalLM) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, 0.1, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        assert torch.allclose(parameter, before[name] * factor, rtol=1e-6), name


def test_every_group_takes_the_rate(model: LlamaForCausalLM) -> None:
    optimizer = make_optimizer(model, 1e-3, 0.01)
    set_learning_rate(optimizer, 5e-4)
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-4]
    assert [group["betas"] for group in optimizer.param_groups] == [BETAS, BETAS]
