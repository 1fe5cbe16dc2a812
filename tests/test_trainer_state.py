"""Moments and random states: exactly what was, or a message."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.errors import RunError
from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.optim import make_optimizer
from training.settings import PretrainSettings
from training.trainer_state import (
    OPTIMIZER_FILE,
    RANDOM_FILE,
    restore_optimizer,
    restore_random_states,
    save_optimizer,
    save_random_states,
    seed_generators,
)

CPU = torch.device("cpu")
SETTINGS = PretrainSettings()


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


def stepped(
    model: LlamaForCausalLM, settings: PretrainSettings = SETTINGS
) -> torch.optim.Optimizer:
    """Return an optimizer that took one step with gradients of ones."""
    optimizer = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def draws() -> tuple[float, float, float, float]:
    """Draw from every generator, a normal one first: Python and numpy keep the second of a pair."""
    return (
        random.gauss(0, 1),
        float(np.random.standard_normal()),
        float(torch.randn(())),
        random.random(),
    )


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    seed_generators(3)
    draws()
    save_random_states(tmp_path, CPU)
    expected = [draws() for _ in range(3)]
    seed_generators(4)
    restore_random_states(tmp_path, CPU)
    assert [draws() for _ in range(3)] == expected


def test_a_seed_starts_every_generator() -> None:
    seed_generators(2**63 - 1)
    expected = draws()
    draws()
    seed_generators(2**63 - 1)
    assert draws() == expected


def test_a_checkpoint_from_before_random_states_changes_none(tmp_path: Path) -> None:
    seed_generators(5)
    expected = draws()
    seed_generators(5)
    restore_random_states(tmp_path, CPU)
    assert draws() == expected


def test_damaged_states_are_a_message(tmp_path: Path, model: LlamaForCausalLM) -> None:
    (tmp_path / RANDOM_FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"random.safetensors is damaged"):
        restore_random_states(tmp_path, CPU)
    (tmp_path / OPTIMIZER_FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(RunError, match=r"optimizer.safetensors is missing or damaged"):
        restore_optimizer(tmp_path, model, make_optimizer(model, SETTINGS))


@pytest.mark.parametrize("change", [{"intermediate_size": 96}, {"num_hidden_layers": 3}])
def test_moments_of_another_shape_are_refused(
    tmp_path: Path, model: LlamaForCausalLM, change: dict[str, int]
) -> None:
    save_optimizer(tmp_path, model, stepped(model))
    grown = LlamaForCausalLM(LlamaConfig(**{**model.config.to_dict(), **change}))
    with pytest.raises(RunError, match=r"holds moments of model\.layers.*another model"):
        restore_optimizer(tmp_path, grown, make_optimizer(grown, SETTINGS))


def test_moments_of_another_optimizer_are_refused(tmp_path: Path, model: LlamaForCausalLM) -> None:
    muon = PretrainSettings(optimizer="muon")
    save_optimizer(tmp_path, model, stepped(model, muon))
    with pytest.raises(RunError, match=r"no moments of adamw for model\.layers.*Set optimizer"):
        restore_optimizer(tmp_path, model, make_optimizer(model, SETTINGS))
    save_optimizer(tmp_path, model, stepped(model))
    with pytest.raises(RunError, match=r"no moments of muon for model\.layers.*Set optimizer"):
        restore_optimizer(tmp_path, model, make_optimizer(model, muon))
