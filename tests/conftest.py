"""Shared fixtures: a private STENTOR_HOME for each test and a real, tiny Llama checkpoint."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

TINY_TEXT = [
    "The river runs past the mill and the miller counts the sacks of grain.",
    "A small lamp burns in the window while the rain falls on the roof.",
    "Two and two are four; four and four are eight; eight and eight are sixteen.",
    "Naïve café owners say “bonjour” to every visitor — 😀.",
]


@pytest.fixture(autouse=True)
def stentor_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own home, no Hub and no Space."""
    folder = tmp_path / "stentor-home"
    monkeypatch.setenv("STENTOR_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("SPACE_ID", raising=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Keep sums in one order, so that numbers compare between machines of any size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def first_signals() -> dict[int, Any]:
    """Return the handlers of the test process as they were before any test.

    A shell starts what it puts into the background deaf to Ctrl-C, and so would its children be.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


@pytest.fixture
def old_signals(first_signals: dict[int, Any]) -> Iterator[None]:
    """Give the test process its own handlers back after a run was executed in it.

    Not those of the test's beginning: a run of a module's fixture had replaced these already, and a
    Ctrl-C of a much later test reached nobody.
    """
    yield
    for number, handler in first_signals.items():
        signal.signal(number, handler)


def write_tiny_tokenizer(folder: Path) -> Tokenizer:
    """Train a byte-level BPE of 320 tokens; token 0 is <|end|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TINY_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a two-layer Llama (width 32, 2 heads of 16, context 512) with fixed random weights."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tokenizer = write_tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return folder
