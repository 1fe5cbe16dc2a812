"""The sample that a stage ends with."""

from pathlib import Path

import torch

from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.sample import sample_text


def test_the_sample_is_the_same_with_and_without_activation_checkpointing(
    tiny_model_folder: Path,
) -> None:
    """In training mode it drops the cache: each token was once chosen from the last alone."""
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    model = load_model(checkpoint)
    state = torch.random.get_rng_state()
    expected = sample_text(model, checkpoint.tokenizer, 0, 3)
    model.activation_checkpointing_enable()
    model.train()
    assert sample_text(model, checkpoint.tokenizer, 0, 3) == expected
    assert model.training
    assert sample_text(model, checkpoint.tokenizer, 0, 4) != expected
    assert torch.equal(torch.random.get_rng_state(), state), "the run's own draws are its own"
