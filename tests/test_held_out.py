"""Text files that models are measured on: three formats, pieces, and what is refused."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from stentor.errors import DataError
from stentor.held_out import PIECE_CHARACTERS, file_hash, read_documents

TEXTS = ["The river runs.", "Naïve café 😀", "  \n", "Two and two are four."]
READ = [TEXTS[0], TEXTS[1], TEXTS[3]]


def write_parquet(path: Path, columns: dict[str, list[object]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_each_format_gives_the_same_documents(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n\n".join(json.dumps({"text": text, "more": 1}) for text in TEXTS))
    table = write_parquet(tmp_path / "a.PARQUET", {"id": [1, 2, 3, 4, 5], "text": [*TEXTS, None]})
    assert list(read_documents(lines)) == list(read_documents(table)) == READ


def test_a_text_file_comes_in_pieces_that_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    text = "Naïve owls read. " * 3_000
    path.write_text(text, encoding="utf-8-sig")
    pieces = list(read_documents(path))
    assert "".join(pieces) == text
    assert [len(piece) for piece in pieces[:-1]] == [PIECE_CHARACTERS] * (len(pieces) - 1)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "z" * 30_000}) + "\n{damaged\n")
    documents = read_documents(path)
    assert [len(next(documents)) for _ in range(2)] == [20_000, 10_000]
    with pytest.raises(DataError, match="line 2: no JSON object with 'text'"):
        next(documents)


def test_half_a_character_becomes_a_question_mark(tmp_path: Path) -> None:
    """JSON can spell a lone surrogate; the tokenizer would end with a TypeError."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b"}')
    assert list(read_documents(path)) == ["a?b"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.md", b"x", r"ends in \.txt, \.jsonl, \.parquet; got 'a\.md'"),
        ("a.txt", b"\xff\xfe\xff", "cannot be read"),
        ("a.parquet", b"no parquet", "cannot be read"),
        ("a.jsonl", b"[]\n", "line 1: no JSON object"),
        ("a.jsonl", b'{"text": 7}\n', "line 1: 'text' holds int"),
        ("a.jsonl", b"[" * 100_000, "line 1: no JSON object"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        list(read_documents(path))


def test_a_missing_file_and_a_missing_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.txt cannot be read"):
        list(read_documents(tmp_path / "nowhere.txt"))
    table = write_parquet(tmp_path / "a.parquet", {"body": ["x"]})
    with pytest.raises(DataError, match="has no column 'text'; it has: body"):
        list(read_documents(table))
    numbers = write_parquet(tmp_path / "b.parquet", {"text": [7]})
    with pytest.raises(DataError, match="'text' holds int, not text"):
        list(read_documents(numbers))


def test_a_file_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("same")
    second.write_text("same")
    assert file_hash(first) == file_hash(second)
    second.write_text("other")
    assert file_hash(first) != file_hash(second)
