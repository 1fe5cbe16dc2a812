"""Where text comes from: every kind of file, and every way in which one is broken."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import psutil
import pyarrow
import pyarrow.parquet
import pytest

from stentor.errors import DataError, OptionError
from training import sources
from training.settings import Source
from training.sources import (
    FILE_READERS,
    READERS,
    holds_text,
    in_turn,
    read_documents,
    read_source,
    shuffled,
)


def documents(*paths: Path, column: str = "text", seed: int = 0) -> list[str]:
    source = Source(kind="files", paths=tuple(map(str, paths)), column=column)
    return list(read_documents((source,), seed))


def refusal(*paths: Path, column: str = "text") -> str:
    with pytest.raises(DataError) as caught:
        documents(*paths, column=column)
    return str(caught.value)


def write_parquet(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("First line.\r\nÜber.\n", encoding="utf-8-sig", newline="")
    (tmp_path / "b.JSONL").write_text('{"text": "one"}\n\n{"text": "two", "id": 3}\n')
    write_parquet(tmp_path / "c.parquet", text=["three", None, "  "], id=[1, 2, 3])
    found = documents(tmp_path)
    assert sorted(found) == ["First line.\r\nÜber.\n", "one", "three", "two"]
    # A folder, and the same files one by one, are the same text.
    assert sorted(documents(*sorted(tmp_path.iterdir()))) == sorted(found)


def test_a_folder_is_opened_in_depth_and_other_files_are_left_alone(tmp_path: Path) -> None:
    """A folder that was named like a file once ended the whole run."""
    (tmp_path / "deep" / "x.txt").mkdir(parents=True)
    (tmp_path / "deep" / "x.txt" / "story.TXT").write_text("Once.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert documents(tmp_path) == ["Once."]


def test_a_folder_without_text_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    assert refusal(tmp_path) == f"No .txt, .jsonl, .parquet file below {tmp_path}."
    assert "unknown ending; known: .txt, .jsonl, .parquet" in refusal(tmp_path / "notes.md")
    assert "does not exist. Check the path" in refusal(tmp_path / "nowhere.txt")
    with pytest.raises(DataError, match=r"none were given.*--text STAGE=FILE"):
        documents()


@pytest.mark.parametrize("content", ["", " \n\t\n"])
def test_an_empty_file_is_no_text(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    assert refusal(path) == "There is no text in empty.txt. Give a file that holds some."
    (tmp_path / "full.txt").write_text("x")
    assert documents(path, tmp_path / "full.txt") == ["x"]


def test_bad_utf8_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("fine\nfine\ncaf\xe9\n".encode("latin-1"))
    assert f"{tmp_path / 'latin.txt'}, line 3: not UTF-8 (byte 3)" in refusal(tmp_path)
    (tmp_path / "latin.txt").write_bytes("text".encode("utf-16"))
    assert "line 1: not UTF-8" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "on', "line 2: not valid JSON"),
        ("[" * 100_000, "line 2: not valid JSON"),
        ('{"text": ' + "9" * 5000 + "}", "line 2: not valid JSON"),
        ('{"body": "x", "id": 1}', "line 2: no text under 'text'; it has: body, id"),
        ('{"text": 5}', "line 2: no text under 'text'; it has: text"),
        ('{"text": null}', "line 2: no text under 'text'"),
        ("[1]", "line 2: no text under 'text'; it has: list"),
        ('"text"', "line 2: no text under 'text'; it has: str"),
    ],
)
def test_a_broken_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Brackets 100,000 deep once ended in a RecursionError."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    assert message in refusal(path)


def test_half_a_surrogate_pair_is_no_character(tmp_path: Path) -> None:
    """JSON can spell one; the tokenizer cannot encode it."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n{"text": "\\ud83d\\ude00"}\n')
    assert sorted(documents(path)) == ["a?b", "😀"]


def test_another_column_can_be_chosen_and_a_missing_one_lists_what_is_there(
    tmp_path: Path,
) -> None:
    path = write_parquet(tmp_path / "a.parquet", body=["x"], title=["y"])
    assert documents(path, column="body") == ["x"]
    assert f"{path} has no column 'text'; it has: body, title." in refusal(path)


def test_a_column_that_is_no_text_is_named_by_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=[None, 5])
    assert f"{path}, row 2: 'text' holds int, not text" in refusal(path)


def test_corrupt_parquet_is_refused_wherever_it_is_corrupt(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", text=["hello " * 100] * 500)
    whole = path.read_bytes()
    for broken in (b"PAR1", b"", whole[: len(whole) // 2], whole[:8] + bytes(90) + whole[98:]):
        path.write_bytes(broken)
        assert f"{path} is not a readable parquet file" in refusal(path)


def test_a_parquet_string_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    """pyarrow stores such bytes unchecked; reading them once raised a bare UnicodeDecodeError."""
    buffers = pyarrow.array([b"\xff\xfe"], pyarrow.binary()).buffers()
    unchecked = pyarrow.Array.from_buffers(pyarrow.string(), 1, buffers)
    path = write_parquet(tmp_path / "a.parquet", text=unchecked)
    assert f"{path} is not a readable parquet file" in refusal(path)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "a.txt").write_text("fine\n" + "x" * (1 << 20))
    assert sum(map(len, documents(tmp_path))) == 5 + (1 << 20)
    (tmp_path / "a.txt").write_text("fine\n" + "x" * (1 << 20) + "y")
    assert f"{tmp_path / 'a.txt'}, line 2: longer than 1 MB. Break it into" in refusal(tmp_path)


def test_a_long_text_file_is_cut_at_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "TEXT_BLOCK_CHARACTERS", 10)
    text = "".join(f"line {number}\n" for number in range(9))
    (tmp_path / "a.txt").write_text(text)
    blocks = documents(tmp_path)
    assert len(blocks) == 5
    assert "".join(sorted(blocks)) == text


def test_documents_come_in_turn_and_a_longer_source_goes_on(tmp_path: Path) -> None:
    rows = {"a": ["a"] * 2, "b": ["b"] * 4}
    for name, texts in rows.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    both = tuple(Source(kind="files", paths=(str(tmp_path / f"{name}.jsonl"),)) for name in rows)
    assert list(read_documents(both, 0)) == ["a", "b", "a", "b", "b", "b"]


def test_the_order_is_shuffled_by_the_seed(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": str(number)}) + "\n" for number in range(50))
    (tmp_path / "a.jsonl").write_text(lines)
    first, again, other = (documents(tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(first) == sorted(other) == sorted(map(str, range(50)))
    assert first != sorted(first, key=int)


def test_shuffling_holds_no_more_than_its_buffer() -> None:
    taken: list[int] = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield "x" * 10

    stream = shuffled(endless(), 0, buffer_characters=100)  # type: ignore[arg-type]
    assert len(list(islice(stream, 5))) == 5
    assert len(taken) <= 16
    assert sorted(shuffled(iter("abcdef"), 0, buffer_characters=2)) == list("abcdef")


def test_generated_text_flows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no end: filling the shuffle buffer with it took seconds in each practice stage."""
    monkeypatch.setattr(sources, "shuffled", None)
    stream = read_documents((Source(name="narrative"), Source(name="textbook")), seed=3)
    first = list(islice(stream, 6))
    again = list(islice(read_documents((Source(name="narrative"), Source(name="textbook")), 3), 6))
    assert first == again
    assert len(set(first)) > 1
    with pytest.raises(OptionError, match="No flavour of generated text is called 'poem'"):
        next(read_documents((Source(name="poem"),), 0))


def test_reading_goes_on_where_it_ended_in_the_same_order(tmp_path: Path) -> None:
    """A position is a number of documents, so blank ones count."""
    rows = [{"text": f"row {number}" if number % 3 else " "} for number in range(30)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    local = Source(kind="files", paths=(str(path),))
    for source in (local, Source(kind="hub", name=str(tmp_path)), Source(name="textbook")):
        whole = list(islice(read_source(source, 7), 30))
        for skip in (0, 1, 17, 29):
            assert list(islice(read_source(source, 7, skip), 30 - skip)) == whole[skip:]
    assert list(read_source(local, 7, 30)) == []


def test_a_blank_file_among_others_is_left_out_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.jsonl").write_text('{"text": " "}\n')
    said: list[str] = []
    folder = Source(kind="files", paths=(str(tmp_path),))
    found = [text for text in read_source(folder, 0, say=said.append) if text.strip()]
    assert found == ["text"] and holds_text(folder)
    assert said == [
        f"{tmp_path / name} holds no text and is left out." for name in ("b.txt", "c.jsonl")
    ]
    assert not holds_text(Source(kind="files", paths=(str(tmp_path / "c.jsonl"),)))


def test_the_tables_fit_the_recipes() -> None:
    kinds = Source.__dataclass_fields__["kind"].metadata["knob"].choices
    # Replays are resolved before any data is read.
    assert {*READERS, "hub", "replay"} == set(kinds)
    assert set(FILE_READERS) == {".txt", ".jsonl", ".parquet"}


def test_files_of_one_source_are_read_in_turn(tmp_path: Path) -> None:
    """A stage that needs little text once got it from the first of the given files alone."""
    for name, count in (("a", 3), ("b", 1)):
        lines = [json.dumps({"text": f"{name}{number}"}) for number in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    source = Source(kind="files", paths=tuple(str(tmp_path / f"{n}.jsonl") for n in "ab"))
    streams = [iter(["a0", "a1", "a2"]), iter(["b0"])]
    assert list(in_turn(streams)) == ["a0", "b0", "a1", "a2"]
    assert sorted(read_source(source, seed=0)) == ["a0", "a1", "a2", "b0"]


def test_a_thousand_files_are_not_open_at_once(tmp_path: Path) -> None:
    """Each of them was held open until the last one came to its end."""
    for number in range(200):
        (tmp_path / f"{number}.txt").write_text("A line of text.\n" * 3000)
    source = Source(kind="files", paths=tuple(str(path) for path in tmp_path.iterdir()))
    process = psutil.Process()
    most = 0
    for _ in sources._read_files(source, 0, sources.silent):
        most = max(most, len(process.open_files()))
    assert 1 < most < 100


def test_many_short_documents_fill_the_buffer_of_a_shuffle_too() -> None:
    """Millions of lines of a word took gigabytes: an object is larger than its text."""
    read: list[str] = []

    def endless() -> Iterator[str]:
        while True:
            read.append("a")
            yield "a"

    next(shuffled(endless(), 0, buffer_characters=1000))
    assert len(read) < 20
