"""Held-out loss of each source and of all."""

from pathlib import Path

import pytest
import torch

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.data import prepare_stage_data
from training.loop import validation_loss
from training.network import TrainingNetwork
from training.settings import PretrainSettings, Source
from training.validation import validate
from training.workers import open_workers

SETTINGS = PretrainSettings(num_steps=2, batch_size=4, validation_windows=5)


def test_the_sources_are_parts_of_the_whole(tiny_model_folder: Path, tmp_path: Path) -> None:
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    sources = (Source(weight=3.0), Source(name="narrative", weight=2.0))
    data = prepare_stage_data(sources, checkpoint.tokenizer, 0, SETTINGS, tmp_path, 1, print)
    network = TrainingNetwork(load_model(checkpoint))
    found = validate(network, data, 7, 2, open_workers(1))
    assert found.step == 7
    assert list(found.by_source) == ["generated text, general", "generated text, narrative"]
    whole = validation_loss(network, data.validation_batches(2))
    assert found.loss == pytest.approx(whole, rel=1e-6)
    windows = torch.from_numpy(data.held_out[1].windows.astype("int64"))
    expected = validation_loss(network, windows[:, None])
    assert found.by_source["generated text, narrative"] == pytest.approx(expected, rel=1e-6)


def test_two_sources_of_one_name_keep_their_own_losses(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    sources = (Source(), Source())
    data = prepare_stage_data(sources, checkpoint.tokenizer, 0, SETTINGS, tmp_path, 1, print)
    found = validate(TrainingNetwork(load_model(checkpoint)), data, 0, 2, open_workers(1))
    assert list(found.by_source) == ["generated text, general", "generated text, general (2)"]
