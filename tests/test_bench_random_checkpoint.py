"""The random checkpoint is a model like any other, and its next token is as open as in English."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.bench.random_checkpoint import SHAPES, write_random_checkpoint
from stentor.loading import open_checkpoint_folder, tensor_shapes_of

SMALL = replace(
    SHAPES["stentor-30m"], hidden_size=64, intermediate_size=128, num_layers=4, num_heads=1,
    num_key_value_heads=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "small"
    write_random_checkpoint(folder, SMALL)
    return folder


def test_the_shapes_are_those_of_the_cards() -> None:
    counts = {
        name: sum(torch.Size(size).numel() for size in tensor_shapes_of(shape).values())
        for name, shape in SHAPES.items()
    }
    assert counts == {"stentor-30m": 30_419_712, "stentor-big": 142_637_568}


def test_it_loads_and_ends_no_text(folder: Path) -> None:
    checkpoint = open_checkpoint_folder(folder)
    assert checkpoint.shape == SMALL
    assert checkpoint.end_tokens == frozenset()
    assert checkpoint.tokenizer.get_vocab_size() == SMALL.vocab_size


def test_its_tokenizer_reads_and_writes_text(folder: Path) -> None:
    tokenizer = open_checkpoint_folder(folder).tokenizer
    text = "The meaning of life is a café 😀"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_next_token_is_about_as_open_as_in_english(folder: Path) -> None:
    """A plain initialisation has 10.4 nats here, and top-p would sort and keep everything."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(100, 228).view(8, 16)
    with torch.no_grad():
        scores = model(ids).logits.log_softmax(dim=-1)
    entropy = -(scores.exp() * scores).sum(dim=-1)
    assert 3.0 < float(entropy.mean()) < 4.2
    # The tied head must not simply repeat what it read.
    assert float((scores.argmax(dim=-1) == ids).float().mean()) < 0.1


def test_the_same_weights_are_written_every_time(folder: Path, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "again", SMALL)
    again = open_checkpoint_folder(tmp_path / "again")
    assert again.revision == open_checkpoint_folder(folder).revision
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] is None
