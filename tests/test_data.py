"""Packed windows: what is in them, and which step reads which."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stentor.errors import DataError
from training import data
from training.data import (
    HELD_OUT_FILE,
    MANIFEST_FILE,
    TOKENS_FILE,
    PackedWindows,
    is_held_out,
    open_windows,
    prepare_windows,
)
from training.settings import WINDOW_TOKENS, PretrainSettings, Source
from training.sources import read_documents

END = 0
SETTINGS = PretrainSettings(num_steps=5, batch_size=2, micro_batch_size=2, validation_windows=3)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


def texts(num_documents: int) -> Iterator[str]:
    """Yield documents that can be told apart by every word in them."""
    return (f"word{number} " * (20 + number % 50) for number in range(num_documents))


def trained_texts() -> Iterator[str]:
    """Yield, without end, documents that are not held out."""
    number = 0
    while True:
        number += 1
        if not is_held_out(f"word{number} " * 30):
            yield f"word{number} " * 30


def held_out_text(num_words: int) -> str:
    """Return a document of so many words that is held out."""
    found = (f"kept{number} " * num_words for number in range(10_000))
    return next(text for text in found if is_held_out(text))


def prepare(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    folder: Path,
    settings: PretrainSettings = SETTINGS,
    seed: int = 0,
) -> PackedWindows:
    return prepare_windows(documents, tokenizer, END, settings, folder, seed)


def stream_of(tokenizer: Tokenizer, documents: Iterator[str], num_windows: int) -> NDArray[np.int_]:
    """Return the (num_windows, 511) first tokens of some documents, each with its end."""
    stream: list[int] = []
    for text in documents:
        stream += [*tokenizer.encode(text).ids, END]
    return np.array(stream[: num_windows * 511]).reshape(num_windows, 511)


def both(packed: PackedWindows) -> list[list[list[int]]]:
    return [packed.training.tolist(), packed.held_out.tolist()]


def manifest_of(folder: Path) -> dict[str, object]:
    manifest: dict[str, object] = json.loads((folder / MANIFEST_FILE).read_text())
    return manifest


def test_a_window_is_511_tokens_of_the_stream_and_an_end(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    packed = prepare(texts(1000), tokenizer, tmp_path)
    parts = [(packed.training, 10, False), (packed.held_out, 3, True)]  # 5 steps of 2; 3 held out
    for windows, num_windows, is_kept in parts:
        assert windows.shape == (num_windows, WINDOW_TOKENS)
        assert windows.dtype == np.uint16
        assert bool((windows[:, -1] == END).all())
        chosen = (text for text in texts(1000) if is_held_out(text) == is_kept)
        assert bool((windows[:, :-1] == stream_of(tokenizer, chosen, num_windows)).all())
    assert manifest_of(tmp_path) == {
        "num_training_windows": 10,
        "num_held_out_windows": 3,
        "held_out_by": "documents",
        "dtype": "uint16",
    }


def test_only_the_text_that_is_needed_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Sources may have no end."""

    def endless() -> Iterator[str]:
        while True:
            yield from texts(1000)

    packed = prepare(endless(), tokenizer, tmp_path)
    assert (len(packed.training), len(packed.held_out)) == (10, 3)


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    held_out = [text for text in texts(3000) if is_held_out(text)]
    assert 60 <= len(held_out) <= 130  # about one in 32
    # Another rule would let a new run train on what an old one was validated on.
    first = [number for number, text in enumerate(texts(100)) if is_held_out(text)]
    assert first == [1, 26, 59, 71]


def test_two_stages_over_the_same_files_never_train_on_each_others_held_out_text(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Each stage split its own windows: one validated on what another had trained on."""
    sources = []
    for name in "ce":
        lines = "".join(f"{name}{number} tells of {number * 7}.\n" for number in range(40_000))
        (tmp_path / f"{name}.txt").write_text(lines)
        sources.append(Source(kind="files", paths=(str(tmp_path / f"{name}.txt"),)))
    long = PretrainSettings(num_steps=300, batch_size=4, validation_windows=8)
    short = PretrainSettings(num_steps=40, batch_size=4, validation_windows=4)
    stages = [((sources[0], sources[1]), 0, long), ((sources[1],), 9, short)]
    lines_of: list[tuple[set[str], set[str]]] = []
    for place, (chosen, seed, settings) in enumerate(stages):
        folder = tmp_path / f"stage{place}"
        packed = prepare(read_documents(chosen, seed), tokenizer, folder, settings, seed)
        assert packed.held_out_by == "documents"
        lines_of.append(
            (lines_in(packed.training, tokenizer), lines_in(packed.held_out, tokenizer))
        )
    for trained, _ in lines_of:
        for _, held_out in lines_of:
            assert len(trained) > len(held_out) > 20 and not trained & held_out


def lines_in(windows: data.Windows, tokenizer: Tokenizer) -> set[str]:
    """Return the whole lines of a part; its stream goes on from window to window."""
    text: str = tokenizer.decode(windows[:, :-1].flatten().tolist())
    return set(text.splitlines()[:-1])


def test_a_long_document_does_not_wait_for_sixty_three_others(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 documents of a megabyte at once once took gigabytes of memory to tokenise."""
    read: list[int] = []

    def long_documents() -> Iterator[str]:
        for number in range(1000):
            read.append(number)
            yield held_out_text(400) if number % 2 else f"a long document {number} " * 200

    monkeypatch.setattr(data, "CHARACTERS_PER_BATCH", 3000)
    prepare(long_documents(), tokenizer, tmp_path)
    assert len(read) < 20


def test_held_out_windows_are_never_trained_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(1000), tokenizer, tmp_path)
    held_out = torch.cat(list(packed.validation_batches(2)))
    assert held_out.shape == (3, WINDOW_TOKENS)
    forbidden = {tuple(window.tolist()) for window in held_out}
    for step in range(50):
        for window in packed.batch_of_step(step, 2):
            assert tuple(window.tolist()) not in forbidden


def test_every_training_window_is_seen_once_an_epoch(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(1000), tokenizer, tmp_path)
    rows = {tuple(window.tolist()): row for row, window in enumerate(packed.training)}

    def rows_of(step: int) -> list[int]:
        return [rows[tuple(window.tolist())] for window in packed.batch_of_step(step, 3)]

    seen = [row for step in range(10) for row in rows_of(step)]  # three epochs of ten windows
    epochs = [seen[first : first + 10] for first in (0, 10, 20)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2], "each epoch has an order of its own"


def test_a_batch_depends_only_on_seed_and_step(tokenizer: Tokenizer, tmp_path: Path) -> None:
    packed = prepare(texts(1000), tokenizer, tmp_path)
    in_order = [packed.batch_of_step(step, 4) for step in range(8)]
    again = open_windows(tmp_path, seed=0)
    for step in (7, 2, 5):
        assert torch.equal(again.batch_of_step(step, 4), in_order[step])
    other = open_windows(tmp_path, seed=1)
    assert any(not torch.equal(other.batch_of_step(step, 4), in_order[step]) for step in range(3))
    assert in_order[0].dtype == torch.int64


@pytest.mark.parametrize(("num_documents", "expected"), [(60, (10, 3)), (16, (3, 2)), (8, (1, 1))])
def test_a_text_without_a_document_to_hold_out_gives_its_last_windows(
    tokenizer: Tokenizer, tmp_path: Path, num_documents: int, expected: tuple[int, int]
) -> None:
    documents = list(islice(trained_texts(), num_documents))
    packed = prepare(iter(documents), tokenizer, tmp_path)
    assert packed.held_out_by == manifest_of(tmp_path)["held_out_by"] == "windows"
    assert (len(packed.training), len(packed.held_out)) == expected
    whole = np.concatenate([packed.training, packed.held_out])
    stream = stream_of(tokenizer, iter(documents), sum(expected))
    assert bool((whole[:, :-1] == stream).all()), "in the order of the text"


def test_a_short_text_is_split_without_the_documents_that_others_hold_out(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The part to hold out is no window long, yet another stage may be validated on it."""
    kept = held_out_text(5)
    documents = [*islice(trained_texts(), 60), kept]
    packed = prepare(iter(documents), tokenizer, tmp_path)
    assert packed.held_out_by == "windows"
    for windows in (packed.training, packed.held_out):
        assert kept.split()[0] not in tokenizer.decode(windows.flatten().tolist())


@pytest.mark.parametrize("num_others", [0, 2])
def test_a_text_that_is_mostly_to_be_held_out_is_shared_between_both_uses(
    tokenizer: Tokenizer, tmp_path: Path, num_others: int
) -> None:
    """Its one long document falls to validation, and nothing would be left to train on."""
    others = list(islice(trained_texts(), num_others))
    long = held_out_text(3000)
    packed = prepare(iter([*others, long]), tokenizer, tmp_path)
    assert packed.held_out_by == "windows"
    assert (len(packed.training), len(packed.held_out)) == (10, 3)
    whole = np.concatenate([packed.training, packed.held_out])
    assert bool((whole[:, :-1] == stream_of(tokenizer, iter([*others, long]), 13)).all())


@pytest.mark.parametrize("text", ["a", "word " * 100])
def test_a_corpus_of_a_token_is_refused(tokenizer: Tokenizer, tmp_path: Path, text: str) -> None:
    with pytest.raises(
        DataError, match=r"gives 0 windows of 512 tokens .* at least two are needed"
    ):
        prepare(iter([text]), tokenizer, tmp_path)
    assert not (tmp_path / MANIFEST_FILE).exists()


def test_a_finished_preparation_is_never_repeated(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = prepare(texts(1000), tokenizer, tmp_path)

    def refuse(_: int) -> str:
        raise AssertionError("the text was read again")

    assert both(prepare(map(refuse, [0]), tokenizer, tmp_path)) == both(first)


def test_a_preparation_killed_before_its_manifest_is_redone(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def killed() -> Iterator[str]:
        yield from texts(70)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(killed(), tokenizer, tmp_path, PretrainSettings(num_steps=500))
    assert (tmp_path / TOKENS_FILE).stat().st_size > 0
    whole = prepare(texts(1000), tokenizer, tmp_path / "whole")
    assert both(prepare(texts(1000), tokenizer, tmp_path)) == both(whole)


@pytest.mark.parametrize("damage", ["cut short", "gone", "{", "[]", '{"num_windows": 13}'])
def test_a_damaged_preparation_is_redone(tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    """A file cut short by a full disk once ended in a ValueError about mmap."""
    whole = both(prepare(texts(1000), tokenizer, tmp_path))
    for name in (TOKENS_FILE, HELD_OUT_FILE):
        if damage == "cut short":
            (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:1000])
        elif damage == "gone":
            (tmp_path / name).unlink()
        else:
            (tmp_path / MANIFEST_FILE).write_text(damage)
        assert both(prepare(texts(1000), tokenizer, tmp_path)) == whole


def test_a_large_vocabulary_takes_four_bytes_a_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    large = Tokenizer.from_str(tokenizer.to_str())
    large.add_tokens([f"~{number}~" for number in range((1 << 16) - large.get_vocab_size() + 9)])
    last = large.get_vocab_size() - 1
    documents = iter([f"{large.id_to_token(last)} " * 2000])
    packed = prepare(documents, large, tmp_path)
    assert packed.training.dtype == np.uint32
    assert int(packed.training.max()) == last > 1 << 16
    assert int(packed.batch_of_step(0, 2).max()) == last
    assert manifest_of(tmp_path)["dtype"] == "uint32"
