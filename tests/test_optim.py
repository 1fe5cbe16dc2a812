"""Which optimizer gets which parameter, and its groups."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.muon import Muon
from training.optim import BETAS, make_optimizer, set_learning_rate
from training.settings import PretrainSettings

SETTINGS = PretrainSettings(learning_rate=1e-3, weight_decay=0.01)
MUON = replace(SETTINGS, optimizer="muon")


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


def test_matrices_decay_and_gains_do_not(model: LlamaForCausalLM) -> None:
    decayed, kept = make_optimizer(model, SETTINGS).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert len(kept["params"]) == 2 * 2 + 1  # two gains a layer, and the final one
    # The tied head is the embedding: it is there once.
    count = sum(p.numel() for group in (decayed, kept) for p in group["params"])
    assert count == model.num_parameters()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_decay_without_gradients_moves_matrices_only(
    model: LlamaForCausalLM, optimizer: str
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = PretrainSettings(learning_rate=0.1, weight_decay=0.5, optimizer=optimizer)
    made = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.dim() == 2 else 1.0
        assert torch.allclose(parameter, before[name] * factor, rtol=1e-6), name


def test_muon_takes_the_matrices_of_the_layers(model: LlamaForCausalLM) -> None:
    optimizer = make_optimizer(model, MUON)
    assert isinstance(optimizer, Muon)
    matrices, embeddings, gains = (group["params"] for group in optimizer.param_groups)
    of_layers = [p for p in model.model.layers.parameters() if p.dim() == 2]
    assert set(map(id, matrices)) == set(map(id, of_layers))
    assert [id(parameter) for parameter in embeddings] == [id(model.model.embed_tokens.weight)]
    assert len(matrices) + len(embeddings) + len(gains) == len(list(model.parameters()))


@pytest.mark.parametrize("settings", [SETTINGS, MUON], ids=["adamw", "muon"])
def test_every_group_takes_the_rate(model: LlamaForCausalLM, settings: PretrainSettings) -> None:
    optimizer = make_optimizer(model, settings)
    set_learning_rate(optimizer, 0.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # at a rate of nothing, nothing moves: the rate reached every part
    assert all(map(torch.equal, before, model.parameters()))
    betas = [group["betas"] for group in optimizer.param_groups if "betas" in group]
    assert betas == [BETAS, BETAS]
