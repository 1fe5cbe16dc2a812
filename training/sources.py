"""Where text comes from: generated, local files (.txt .jsonl .parquet, folders), Hub datasets.

`read_documents` yields strings and knows nothing of tokens. Every error names the file and the row.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet

from stentor.errors import DataError
from training.generated_text import generate_documents
from training.settings import Source

# A .txt file is one document; a longer one is cut at a line end into documents of this size, small
# enough that a single book has documents to hold out (one in 32, see data.py).
TEXT_BLOCK_CHARACTERS = 20_000
PARQUET_BATCH_ROWS = 256
# Documents are shuffled inside a buffer of this many characters (about 64 MB of memory).
SHUFFLE_CHARACTERS = 64_000_000


def read_documents(sources: tuple[Source, ...], seed: int) -> Iterator[str]:
    """Yield non-empty documents, one source after the other in turn, in a seeded shuffled order.

    Raises:
        DataError: a file that cannot be read, or a source without any text.
    """
    streams = [_stream(source, seed) for source in sources]
    while streams:
        for stream in list(streams):
            document = next(stream, None)
            if document is None:
                streams.remove(stream)
            else:
                yield document


def _stream(source: Source, seed: int) -> Iterator[str]:
    documents = _non_empty(source, seed)
    # Generated text has no order to lose, and no end: filling a buffer with it would take seconds.
    return documents if source.kind == "generated" else shuffled(documents, seed)


def shuffled(
    documents: Iterator[str], seed: int, buffer_characters: int = SHUFFLE_CHARACTERS
) -> Iterator[str]:
    """Yield the same documents in another order, holding at most `buffer_characters`.

    The first document comes out when the buffer is full, so a stream without end still flows.
    """
    pick = random.Random(seed)
    buffer: list[str] = []
    held = 0
    for document in documents:
        buffer.append(document)
        held += len(document)
        while held > buffer_characters:
            chosen = pick.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            released = buffer.pop()
            held -= len(released)
            yield released
    pick.shuffle(buffer)
    yield from buffer


def _non_empty(source: Source, seed: int) -> Iterator[str]:
    """Yield the documents that hold text; refuse a source that has none."""
    found = False
    for document in READERS[source.kind](source, seed):
        if document.strip():
            found = True
            # JSON can spell half of a surrogate pair, which is no character and has no UTF-8.
            yield document.encode("utf-8", errors="replace").decode("utf-8")
    if not found:
        raise DataError(f"There is no text in {source.describe()}. Give a file that holds some.")


def _read_generated(source: Source, seed: int) -> Iterator[str]:
    return generate_documents(source.name, seed)


def _read_files(source: Source, _seed: int) -> Iterator[str]:
    if not source.paths:
        raise DataError(
            "This stage reads your own files and none were given. Upload text in the Training tab, "
            "or add --text STAGE=FILE (.txt, .jsonl, .parquet, or a folder of them)."
        )
    for path in _expand(source.paths):
        yield from FILE_READERS[path.suffix.lower()](path, source.column)


def _expand(paths: tuple[str, ...]) -> list[Path]:
    """Return the files behind `paths`, folders opened, in a fixed order."""
    files: list[Path] = []
    for given in map(Path, paths):
        if given.is_dir():
            inside = (path for path in given.rglob("*") if path.suffix.lower() in FILE_READERS)
            files += sorted(path for path in inside if path.is_file())
        elif not given.is_file():
            raise DataError(f"{given} does not exist. Check the path.")
        elif given.suffix.lower() not in FILE_READERS:
            raise DataError(f"{given} has an unknown ending; known: {', '.join(FILE_READERS)}.")
        else:
            files.append(given)
    if not files:
        raise DataError(f"No {', '.join(FILE_READERS)} file below {', '.join(paths)}.")
    return files


def _read_text(path: Path, _column: str) -> Iterator[str]:
    block: list[str] = []
    held = 0
    for _, line in _lines(path):
        block.append(line)
        held += len(line)
        if held >= TEXT_BLOCK_CHARACTERS:
            yield "".join(block)
            block, held = [], 0
    yield "".join(block)


def _read_json_lines(path: Path, column: str) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # the latter: brackets a thousand deep
            raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from error
        if not isinstance(row, dict) or not isinstance(row.get(column), str):
            keys = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise DataError(f"{path}, line {number}: no text under {column!r}; it has: {keys}.")
        yield row[column]


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if column not in table.schema_arrow.names:
                known = ", ".join(table.schema_arrow.names)
                raise DataError(f"{path} has no column {column!r}; it has: {known}.")
            row_number = 0
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    row_number += 1
                    yield _text_of(value, f"{path}, row {row_number}", column)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({error}).") from error


def _text_of(value: object, place: str, column: str) -> str:
    """Return a column's text; an empty cell is empty text, a number is refused."""
    if not isinstance(value, str | None):
        raise DataError(f"{place}: {column!r} holds {type(value).__name__}, not text.")
    return value or ""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines with their ends; bad UTF-8 is refused by line."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte {error.start}). Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def _read_hub(source: Source, _seed: int) -> Iterator[str]:
    """Stream a Hub dataset; the network is only touched here."""
    try:
        rows = datasets.load_dataset(
            source.name, source.subset, split="train", streaming=True, revision=source.revision
        )
        for number, row in enumerate(rows, start=1):
            if source.column not in row:
                raise DataError(
                    f"{source.describe()}, row {number}: no column {source.column!r}; "
                    f"it has: {', '.join(row)}."
                )
            yield _text_of(row[source.column], f"{source.describe()}, row {number}", source.column)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The dataset {source.describe()} cannot be read ({error}). It needs the network; "
            "give local files with --text instead."
        ) from error


READERS: dict[str, Callable[[Source, int], Iterator[str]]] = {
    "generated": _read_generated,
    "files": _read_files,
    "hub": _read_hub,
}
FILE_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
