"""Packed windows: what is in them, and which step reads which."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from stentor.errors import DataError
from training import data
from training.data import MANIFEST_FILE, TOKENS_FILE, PackedWindows, open_windows, prepare_windows
from training.recipe import WINDOW_TOKENS, PretrainSettings

END = 0
SETTINGS = PretrainSettings(num_steps=5, batch_size=2, micro_batch_size=2, validation_windows=3)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


def texts(num_documents: int) -> Iterator[str]:
    """Yield documents that can be told apart by every word in them."""
    return (f"word{number} " * (20 + number % 50) for number in range(num_documents))


def prepare(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    folder: Path,
    settings: PretrainSettings = SETTINGS,
    seed: int = 0,
) -> PackedWindows:
    return prepare_windows(documents, tokenizer, END, settings, folder, seed)


def test_a_window_is_511_tokens_of_the_stream_and_an_end(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    packed = prepare(texts(100), tokenizer, tmp_path)
    assert packed.windows.shape == (13, WINDOW_TOKENS)  # 5 steps of 2, and 3 held out
    assert packed.windows.dtype == np.uint16
    assert bool((packed.windows[:, -1] == END).all())
    stream: list[int] = []
    for text in texts(100):
        stream += [*tokenizer.encode(text).ids, END]
    expected = np.array(stream[: 13 * 511]).reshape(13, 511)
    assert bool((packed.windows[:, :-1] == expected).all())


def test_only_the_text_that_is_needed_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Sources may have no end."""

    def endless() -> Iterator[str]:
        while True:
            yield from texts(100)

    assert len(prepare(endless(), tokenizer, tmp_path).windows) == 13


def test_a_long_document_does_not_wait_for_sixty_three_others(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 documents of a megabyte at once once took gigabytes of memory to tokenise."""
    read: list[int] = []

    def long_documents() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield "a long document " * 200

    monkeypatch.setattr(data, "CHARACTERS_PER_BATCH", 3000)
    prepare(long_documents(), tokenizer, tmp_path)
    assert len(read) < 20


def test_held_out_windows_are_never_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(100), tokenizer, tmp_path)
    held_out = torch.cat(list(packed.validation_batches(2)))
    assert held_out.shape == (3, WINDOW_TOKENS)
    assert not set(packed.training) & set(packed.validation)
    forbidden = {tuple(window.tolist()) for window in held_out}
    for step in range(50):
        for window in packed.batch_of_step(step, 2):
            assert tuple(window.tolist()) not in forbidden


def test_every_training_window_is_seen_once_an_epoch(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(100), tokenizer, tmp_path)
    rows = {tuple(window.tolist()): row for row, window in enumerate(packed.windows)}

    def rows_of(step: int) -> list[int]:
        return [rows[tuple(window.tolist())] for window in packed.batch_of_step(step, 3)]

    seen = [row for step in range(10) for row in rows_of(step)]  # three epochs of ten windows
    assert len(packed.training) == 10
    epochs = [seen[first : first + 10] for first in (0, 10, 20)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(packed.training)
    assert epochs[0] != epochs[1] != epochs[2], "each epoch has an order of its own"


def test_a_batch_depends_only_on_seed_and_step(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(100), tokenizer, tmp_path)
    in_order = [packed.batch_of_step(step, 4) for step in range(8)]
    again = open_windows(tmp_path, 3, seed=0)
    for step in (7, 2, 5):
        assert torch.equal(again.batch_of_step(step, 4), in_order[step])
    other = open_windows(tmp_path, 3, seed=1)
    assert any(not torch.equal(other.batch_of_step(step, 4), in_order[step]) for step in range(3))
    assert in_order[0].dtype == torch.int64


def test_little_text_is_shared_between_both_uses(tokenizer: Tokenizer, tmp_path: Path) -> None:
    two_windows = iter([" a" * 511 * 2])
    packed = prepare(two_windows, tokenizer, tmp_path)
    assert len(packed.windows) >= 2
    assert len(packed.validation) == len(packed.windows) // 2
    assert len(packed.training) >= 1


@pytest.mark.parametrize("text", ["a", "word " * 100])
def test_a_corpus_of_a_token_is_refused(tokenizer: Tokenizer, tmp_path: Path, text: str) -> None:
    with pytest.raises(
        DataError, match=r"gives 0 windows of 512 tokens .* at least two are needed"
    ):
        prepare(iter([text]), tokenizer, tmp_path)
    assert not (tmp_path / MANIFEST_FILE).exists()


def test_a_finished_preparation_is_never_repeated(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = prepare(texts(100), tokenizer, tmp_path)

    def refuse(_: int) -> str:
        raise AssertionError("the text was read again")

    again = prepare(map(refuse, [0]), tokenizer, tmp_path)
    assert bool((first.windows == again.windows).all())


def test_a_preparation_killed_before_its_manifest_is_redone(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def killed() -> Iterator[str]:
        yield from texts(70)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(killed(), tokenizer, tmp_path, PretrainSettings(num_steps=500))
    assert (tmp_path / TOKENS_FILE).stat().st_size > 0
    redone = np.array(prepare(texts(100), tokenizer, tmp_path).windows)
    whole = prepare(texts(100), tokenizer, tmp_path / "whole").windows
    assert bool((redone == whole).all())


@pytest.mark.parametrize("damage", ["tokens cut short", "no tokens", "manifest", "other manifest"])
def test_a_damaged_preparation_is_redone(tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    """A file cut short by a full disk once ended in a ValueError about mmap."""
    whole = np.array(prepare(texts(100), tokenizer, tmp_path).windows)
    if damage == "tokens cut short":
        (tmp_path / TOKENS_FILE).write_bytes((tmp_path / TOKENS_FILE).read_bytes()[:1000])
    elif damage == "no tokens":
        (tmp_path / TOKENS_FILE).unlink()
    else:
        (tmp_path / MANIFEST_FILE).write_text("{" if damage == "manifest" else "[]")
    assert bool((prepare(texts(100), tokenizer, tmp_path).windows == whole).all())


def test_a_large_vocabulary_takes_four_bytes_a_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    large = Tokenizer.from_str(tokenizer.to_str())
    large.add_tokens([f"~{number}~" for number in range((1 << 16) - large.get_vocab_size() + 9)])
    last = large.get_vocab_size() - 1
    documents = iter([f"{large.id_to_token(last)} " * 2000])
    packed = prepare(documents, large, tmp_path)
    assert packed.windows.dtype == np.uint32
    assert int(packed.windows.max()) == last > 1 << 16
    assert int(packed.batch_of_step(0, 2).max()) == last
    assert json.loads((tmp_path / MANIFEST_FILE).read_text())["dtype"] == "uint32"


def test_the_manifest_says_what_was_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    prepare(texts(40), tokenizer, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert manifest["num_windows"] == 13
    assert manifest["num_characters"] == sum(map(len, texts(40)))
    prepare(texts(40), tokenizer, tmp_path / "again")
    again = json.loads((tmp_path / "again" / MANIFEST_FILE).read_text())
    assert again["sha256"] == manifest["sha256"]
