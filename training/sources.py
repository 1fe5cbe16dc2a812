"""Where text comes from: generated, local files (.txt .jsonl .parquet, folders), Hub datasets.

`read_source` yields strings and knows nothing of tokens. Every error names the file and the row.
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow
import pyarrow.parquet

from stentor.errors import DataError
from training.generated_text import generate_documents
from training.hub_text import read_hub, text_of
from training.settings import Source

# A .txt file is one document; a longer one is cut at a line end into documents of this size, small
# enough that a single book has documents to hold out (one in 32, see tokenise.py).
TEXT_BLOCK_CHARACTERS = 20_000
# A line is held in memory whole; no text that people wrote comes near this.
MAX_LINE_BYTES = 1 << 28
PARQUET_BATCH_ROWS = 256
# Files read in turn; a process may have no more than a thousand or so open.
MAX_OPEN_FILES = 64
# Documents are shuffled inside a buffer of this many characters (64 MB of ASCII text). A document
# counts for some more, so that short ones, a string object each, take no gigabytes.
SHUFFLE_CHARACTERS = 64_000_000
DOCUMENT_CHARACTERS = 64

Say = Callable[[str], None]


def silent(_message: str) -> None:
    """Say nothing."""


def read_source(source: Source, seed: int, skip: int = 0, say: Say = silent) -> Iterator[str]:
    """Yield a source's documents after the first `skip`, in an order that the seed decides.

    Blank documents are among them, so that a position is a number of documents. Local files are
    shuffled. A Hub dataset comes as it is, so that rows can be skipped where they are stored;
    generated text has no order to lose, and no end.

    Raises:
        DataError: a file or a dataset that cannot be read.
    """
    if source.kind == "hub":
        yield from map(_encodable, read_hub(source, skip))
        return
    documents = READERS[source.kind](source, seed, say)
    if source.kind != "generated":
        documents = map(_encodable, shuffled(documents, seed))
    yield from islice(documents, skip, None)


def read_documents(sources: tuple[Source, ...], seed: int) -> Iterator[str]:
    """Yield the non-blank documents of several sources, one of each in turn.

    Raises:
        DataError: a file that cannot be read, or a source without any text.
    """
    yield from in_turn([_non_blank(source, seed) for source in sources])


def in_turn(streams: list[Iterator[str]]) -> Iterator[str]:
    """Yield one document of each stream in turn, until all have ended."""
    streams = list(streams)
    while streams:
        for stream in list(streams):
            document = next(stream, None)
            if document is None:
                streams.remove(stream)
            else:
                yield document


def holds_text(source: Source) -> bool:
    """Tell whether a source of local files holds anything but white space; others always do."""
    if source.kind != "files":
        return True
    return any(document.strip() for document in _read_files(source, 0, silent))


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
        held += len(document) + DOCUMENT_CHARACTERS
        while held > buffer_characters:
            chosen = pick.randrange(len(buffer))
            buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
            released = buffer.pop()
            held -= len(released) + DOCUMENT_CHARACTERS
            yield released
    pick.shuffle(buffer)
    yield from buffer


def no_text(source: Source) -> DataError:
    """Return the refusal of a source that holds nothing but white space."""
    return DataError(f"There is no text in {source.describe()}. Give a file that holds some.")


def _encodable(document: str) -> str:
    """Return text that has UTF-8: half of a surrogate pair, which JSON can spell, has none."""
    if document.isascii():
        return document
    return document.encode("utf-8", errors="replace").decode("utf-8")


def _non_blank(source: Source, seed: int) -> Iterator[str]:
    found = False
    for document in read_source(source, seed):
        if document.strip():
            found = True
            yield document
    if not found:
        raise no_text(source)


def _read_generated(source: Source, seed: int, _say: Say) -> Iterator[str]:
    return generate_documents(source.name, seed)


def _read_files(source: Source, _seed: int, say: Say) -> Iterator[str]:
    """Yield a document of each path in turn; a blank file among others is left out and said so.

    In turn, so that a stage that needs little text gets it from all of them, up to MAX_OPEN_FILES.
    """
    if not source.paths:
        raise DataError(
            "This stage reads your own files and none were given. Upload text in the Training tab, "
            "or add --text STAGE=FILE (.txt, .jsonl, .parquet, or a folder of them) or --corpora "
            "DIR (a folder with a text for each source)."
        )
    _expand(source.paths)  # one that is missing is told before anything is read
    for first in range(0, len(source.paths), MAX_OPEN_FILES):
        paths = source.paths[first : first + MAX_OPEN_FILES]
        yield from in_turn([_read_path(path, source.column, say) for path in paths])


def _read_path(given: str, column: str, say: Say) -> Iterator[str]:
    for path in _expand((given,)):
        is_blank = True
        for document in FILE_READERS[path.suffix.lower()](path, column):
            is_blank = is_blank and not document.strip()
            yield document
        if is_blank:
            say(f"{path} holds no text and is left out.")


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
                    yield text_of(value, f"{path}, row {row_number}", column)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({error}).") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines with their ends; bad UTF-8 is refused by line."""
    number = 0
    try:
        with path.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(
                        f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MB. "
                        "Break it into lines."
                    )
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not UTF-8 (byte {error.start}). Save the file as UTF-8."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


READERS: dict[str, Callable[[Source, int, Say], Iterator[str]]] = {
    "generated": _read_generated,
    "files": _read_files,
}
FILE_READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
