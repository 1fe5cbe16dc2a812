"""Documents of one text file (.txt, .jsonl, .parquet), to measure models on. Knows no models.

Read in order and only as far as somebody asks. A long document comes in pieces, so that no more
than a piece is tokenised at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet

from stentor.errors import DataError

COLUMN = "text"
PIECE_CHARACTERS = 20_000
# A row is taken whole, so a batch of few rows bounds the memory.
BATCH_ROWS = 64


def read_documents(path: Path) -> Iterator[str]:
    """Yield the texts of a file, none of them blank or longer than PIECE_CHARACTERS.

    Raises:
        DataError: no such file, another kind of file, or it is damaged; names the line.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"A text file ends in {', '.join(READERS)}; got {path.name!r}.")
    try:
        for document in reader(path):
            for start in range(0, len(document), PIECE_CHARACTERS):
                piece = document[start : start + PIECE_CHARACTERS]
                if piece.strip():
                    # JSON can spell half of a surrogate pair, which has no UTF-8.
                    yield piece.encode("utf-8", errors="replace").decode("utf-8")
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). Check the path and the file.") from error


def file_hash(path: Path) -> str:
    """Return `sha256:` and the digest of a file, to name the text that was measured."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _read_text(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        while piece := stream.read(PIECE_CHARACTERS):
            yield piece


def _read_json_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[COLUMN]
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: no JSON object with {COLUMN!r} ({error!r:.80})."
                ) from error
            yield _checked(text, f"{path}, line {number}")


def _read_parquet(path: Path) -> Iterator[str]:
    with pyarrow.parquet.ParquetFile(path) as table:
        names = table.schema_arrow.names
        if COLUMN not in names:
            raise DataError(f"{path} has no column {COLUMN!r}; it has: {', '.join(names)}.")
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=[COLUMN]):
            for value in batch.column(0).to_pylist():
                yield _checked("" if value is None else value, str(path))


def _checked(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {COLUMN!r} holds {type(value).__name__}, not text.")
    return value


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
