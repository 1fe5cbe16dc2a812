"""Shards of one source: what is in them, and that nothing finished is lost or done twice."""

import json
from collections.abc import Generator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from stage_texts import (
    END,
    bytes_of,
    held_out_text,
    stream_of,
    texts,
    trained_texts,
)
from tokenizers import Tokenizer

from stentor.errors import DataError
from training import shards, tokenise
from training.encoding import token_dtype
from training.settings import WINDOW_TOKENS
from training.shards import MANIFEST_FILE, Order, SourceWindows, is_finished, open_source
from training.source_windows import write_source
from training.tokenise import TokenGroup, is_held_out


class Killed(BaseException):
    """Ends a preparation as a kill does: nothing runs after it."""


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_WINDOWS", 4)
    monkeypatch.setattr(tokenise, "GROUP_DOCUMENTS", 7)


class Preparation:
    """One source in one folder, which can be killed after so many documents."""

    def __init__(
        self, folder: Path, tokenizer: Tokenizer, documents: list[str], training: int = 30
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.documents = documents
        self.order = Order("me", "a text", token_dtype(tokenizer, END), END, training, 3)
        self.num_read = 0
        self.said: list[str] = []

    def run(self, killed_after: int | None = None) -> SourceWindows:
        self.num_read = 0

        def token_groups(skip: int) -> Generator[TokenGroup]:
            def read() -> Generator[str]:
                for document in islice(self.documents, skip, None):
                    if self.num_read == killed_after:
                        raise Killed
                    self.num_read += 1
                    yield document

            return tokenise.tokenise(read(), self.tokenizer, END, num_workers=1)

        write_source(self.folder, self.order, token_groups, self.said.append)
        return open_source(self.folder)


def whole(source: SourceWindows) -> list[list[int]]:
    """Return the training windows."""
    windows: list[list[int]] = source.rows(np.arange(source.num_training_windows)).tolist()
    return windows


def test_a_window_is_511_tokens_of_the_stream_and_an_end(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = Preparation(tmp_path, tokenizer, texts(300), training=10).run()
    trained = [text for text in texts(300) if not is_held_out(text)]
    kept = [text for text in texts(300) if is_held_out(text)]
    windows = np.array(whole(source))
    assert windows.shape == (10, WINDOW_TOKENS) and source.held_out.shape == (3, WINDOW_TOKENS)
    for found, chosen in ((windows, trained), (source.held_out, kept)):
        assert bool((found[:, -1] == END).all())
        assert bool((found[:, :-1] == stream_of(tokenizer, chosen, len(found))).all())
    assert source.held_out.dtype == np.uint16
    assert source.held_out_by == "documents"


def test_a_killed_preparation_goes_on_after_its_last_finished_shard(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Wherever it is killed, the bytes are those of one that was not."""
    documents = texts(250)
    documents[100:100] = ["", "a long document " * 3000, " \n"]  # over several shards
    reference = Preparation(tmp_path / "whole", tokenizer, documents)
    reference.run()
    expected = bytes_of(tmp_path / "whole")
    assert len(expected) > 2 * 8
    for killed_after in (*range(0, reference.num_read, 9), 101, 102, 103, 104):
        again = Preparation(tmp_path / f"killed-{killed_after}", tokenizer, documents)
        with pytest.raises(Killed):
            again.run(killed_after)
        notes = list(again.folder.glob("train-*.json"))
        skipped = max((json.loads(n.read_text())["num_documents"] for n in notes), default=0)
        again.run()
        assert again.num_read <= reference.num_read - skipped + 7  # to the end of a group
        assert bytes_of(again.folder) == expected


def test_one_that_is_killed_again_and_again_still_ends(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    Preparation(tmp_path / "whole", tokenizer, texts(600), training=100).run()
    preparation = Preparation(tmp_path / "killed", tokenizer, texts(600), training=100)
    for _ in range(100):
        try:
            preparation.run(killed_after=90)
            break
        except Killed:
            continue
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
    assert sum("going on after" in line for line in preparation.said) > 1


def test_killed_between_the_last_shard_and_the_manifest(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for name, documents in {
        "enough": texts(250),
        "short": texts(60),
        "split by windows": trained_texts(60),
        "read twice": [held_out_text(3000)],
    }.items():
        preparation = Preparation(tmp_path / name, tokenizer, documents)
        preparation.run()
        expected = bytes_of(tmp_path / name)
        (tmp_path / name / MANIFEST_FILE).unlink()
        preparation.run()
        assert bytes_of(tmp_path / name) == expected


@pytest.mark.parametrize("damage", ["cut short", "gone", "a flipped bit", "no note", "{", "[]"])
def test_a_damaged_shard_is_written_again_and_those_before_it_are_kept(
    tokenizer: Tokenizer, tmp_path: Path, damage: str
) -> None:
    """A file cut short by a full disk once ended in a ValueError about mmap."""
    preparation = Preparation(tmp_path, tokenizer, texts(250))
    preparation.run()
    num_read = preparation.num_read
    expected = bytes_of(tmp_path)
    for name in ("train-00002", "held_out"):
        path = tmp_path / f"{name}.bin"
        content = path.read_bytes()
        if damage == "cut short":
            path.write_bytes(content[:1000])
        elif damage == "gone":
            path.unlink()
        elif damage == "a flipped bit":
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
        elif damage == "no note":
            (tmp_path / "train-00002.json").unlink()
            (tmp_path / MANIFEST_FILE).unlink(missing_ok=True)
        else:
            (tmp_path / "train-00002.json").write_text(damage)
            (tmp_path / MANIFEST_FILE).write_text(damage)
        assert not is_finished(tmp_path, preparation.order)
        preparation.run()
        assert bytes_of(tmp_path) == expected
        assert preparation.num_read < num_read or name == "held_out"
    assert is_finished(tmp_path, preparation.order)


def test_another_order_is_prepared_anew(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = Preparation(tmp_path, tokenizer, texts(250))
    first.run()
    other = Preparation(tmp_path, tokenizer, texts(250, "other"))
    other.order = Order("other", "another text", token_dtype(tokenizer, END), END, 30, 3)
    assert is_finished(tmp_path, first.order) and not is_finished(tmp_path, other.order)
    assert whole(other.run()) != whole(first.run())


def test_an_unfinished_source_cannot_be_opened(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not complete"):
        open_source(tmp_path)
    Preparation(tmp_path, tokenizer, texts(250)).run()
    (tmp_path / "train-00001.bin").write_bytes(b"x")
    with pytest.raises(DataError, match=r"is not complete .*train-00001\.bin has 1 bytes"):
        open_source(tmp_path)


@pytest.mark.parametrize(("num_documents", "expected"), [(60, (10, 3)), (16, (3, 2)), (8, (1, 1))])
def test_a_text_without_a_document_to_hold_out_gives_its_last_windows(
    tokenizer: Tokenizer, tmp_path: Path, num_documents: int, expected: tuple[int, int]
) -> None:
    documents = trained_texts(num_documents)
    source = Preparation(tmp_path, tokenizer, documents, training=10).run()
    assert source.held_out_by == "windows"
    assert (source.num_training_windows, len(source.held_out)) == expected
    found = np.concatenate([np.array(whole(source)), source.held_out])
    stream = stream_of(tokenizer, documents, sum(expected))
    assert bool((found[:, :-1] == stream).all()), "in the order of the text"


def test_a_short_text_is_split_without_the_documents_that_others_hold_out(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The part to hold out is no window long, yet another stage may be validated on it."""
    kept = held_out_text(5)
    source = Preparation(tmp_path, tokenizer, [*trained_texts(60), kept], training=10).run()
    assert source.held_out_by == "windows"
    for windows in (np.array(whole(source)), source.held_out):
        assert kept.split()[0] not in tokenizer.decode(windows.flatten().tolist())


@pytest.mark.parametrize("num_others", [0, 2])
def test_a_text_that_is_mostly_to_be_held_out_is_shared_between_both_uses(
    tokenizer: Tokenizer, tmp_path: Path, num_others: int
) -> None:
    """Its one long document falls to validation, and nothing would be left to train on."""
    documents = [*trained_texts(num_others), held_out_text(3000)]
    source = Preparation(tmp_path, tokenizer, documents, training=10).run()
    assert source.held_out_by == "windows"
    assert (source.num_training_windows, len(source.held_out)) == (10, 3)
    found = np.concatenate([np.array(whole(source)), source.held_out])
    assert bool((found[:, :-1] == stream_of(tokenizer, documents, 13)).all())


def test_less_than_two_windows_are_not_finished(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for documents in ([], ["a"], ["word " * 100]):
        with pytest.raises(DataError, match="is not complete"):
            Preparation(tmp_path, tokenizer, documents).run()


def test_a_large_vocabulary_takes_four_bytes_a_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    large = Tokenizer.from_str(tokenizer.to_str())
    large.add_tokens([f"~{number}~" for number in range((1 << 16) - large.get_vocab_size() + 9)])
    last = large.get_vocab_size() - 1
    source = Preparation(tmp_path, large, [f"{large.id_to_token(last)} " * 2000]).run()
    assert source.shards[0].dtype == np.uint32
    assert int(source.rows(np.array([0])).max()) == last > 1 << 16
