"""Which windows a diverged step was trained on, found with the weights that diverged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import LlamaForCausalLM

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.data import prepare_stage_data
from training.halt import MAX_WINDOWS, TEXT_CHARACTERS, describe_windows, windows_of_step
from training.network import TrainingNetwork
from training.settings import PretrainSettings, Source
from training.stage_data import StageData

SOURCES = (Source(), Source(name="narrative"))
SETTINGS = PretrainSettings(num_steps=4, batch_size=24, validation_windows=2)


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return open_checkpoint_folder(tiny_model_folder).tokenizer


@pytest.fixture
def data(tokenizer: Tokenizer, tmp_path: Path) -> StageData:
    return prepare_stage_data(SOURCES, tokenizer, 0, SETTINGS, tmp_path / "data", 3, print)


def worst(model: LlamaForCausalLM, data: StageData, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return windows_of_step(TrainingNetwork(model), data, tokenizer, 1, SETTINGS.batch_size)


def test_the_windows_that_did_it_come_first_with_their_places(
    model: LlamaForCausalLM, data: StageData, tokenizer: Tokenizer
) -> None:
    """A token whose embedding is NaN spoils the windows that hold it, and no other."""
    batch = data.batch_of_step(1, SETTINGS.batch_size)
    counts = (batch[:, :, None] == torch.arange(model.config.vocab_size)).any(1).sum(0)
    token = int(torch.where((counts > 0) & (counts < 6))[0][0])
    guilty = (batch == token).any(1)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # no longer tied
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = math.nan
    windows = worst(model, data, tokenizer)
    assert len(windows) == MAX_WINDOWS
    bad = [window for window in windows if math.isnan(window["loss"])]
    assert windows[: len(bad)] == bad and len(bad) == int(guilty.sum())
    places = data.places_of_step(1, SETTINGS.batch_size)
    rows = [row for row in range(len(places)) if guilty[row]]
    expected = {(places[row].source, places[row].shard, places[row].offset) for row in rows}
    assert {(w["source"], w["shard"], w["offset"]) for w in bad} == expected
    first = tokenizer.decode(batch[rows[0]].tolist())
    assert first.startswith(bad[0]["text"]) and 0 < len(bad[0]["text"]) <= TEXT_CHARACTERS
    text = describe_windows(windows, SETTINGS.batch_size)
    assert text.startswith(f"{len(bad)} of 24 windows give such a loss: generated text, ")
    assert f"offset {bad[0]['offset']} (loss nan), which begins " in text


def test_weights_that_are_at_fault_are_called_so(
    model: LlamaForCausalLM, data: StageData, tokenizer: Tokenizer
) -> None:
    healthy = worst(model, data, tokenizer)
    losses = [window["loss"] for window in healthy]
    assert losses == sorted(losses, reverse=True)
    assert describe_windows(healthy, 24).startswith("No window alone gives such a loss")
    with torch.no_grad():
        model.model.norm.weight[0] = math.inf
    text = describe_windows(worst(model, data, tokenizer), SETTINGS.batch_size)
    assert text.startswith("Every window of the step gives such a loss, so the weights")
