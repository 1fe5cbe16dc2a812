"""How many tokens a source of local files holds, estimated from a look into some of them.

Generated text has no end, and how much a dataset of the Hub holds is not known here.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet

from training.encoding import DocumentEncoder
from training.settings import Source
from training.sources import FILE_READERS

# Files that are looked into, and what is read of each.
MAX_FILES = 12
SAMPLE_BYTES = 400_000
SAMPLE_ROWS = 200


def files_of(source: Source) -> list[Path]:
    """Return the files that a source reads; a path that is not there has none."""
    files: list[Path] = []
    for given in map(Path, source.paths):
        inside = given.rglob("*") if given.is_dir() else [given]
        files += sorted(path for path in inside if path.suffix.lower() in FILE_READERS)
    return [path for path in files if path.is_file()]


def size_of_files(source: Source) -> int:
    """Return the bytes of a source's files."""
    return sum(path.stat().st_size for path in files_of(source))


def estimate_tokens(source: Source, encoder: DocumentEncoder) -> float | None:
    """Return about how many tokens a source holds; None: it has no end, or nobody knows."""
    if source.kind != "files":
        return None
    files = [path for path in files_of(source) if path.stat().st_size]
    step = max(1, len(files) // MAX_FILES)
    densities = []
    for path in files[::step][:MAX_FILES]:
        with suppress(OSError, ValueError, pyarrow.ArrowException):  # told by whoever reads it all
            densities.append(_tokens_per_byte(path, source.column, encoder))
    if not densities:
        return None
    return sum(densities) / len(densities) * size_of_files(source)


def _tokens_per_byte(path: Path, column: str, encoder: DocumentEncoder) -> float:
    texts, num_bytes = SAMPLERS[path.suffix.lower()](path, column)
    tokens, _ = encoder.encode(texts)
    return len(tokens) / max(1.0, num_bytes)


def _sample_text(path: Path, _column: str) -> tuple[list[str], float]:
    """Return the beginning of a file, and how many of its bytes that is."""
    block = _beginning(path)
    return [block.decode("utf-8", errors="ignore")], len(block)


def _sample_json_lines(path: Path, column: str) -> tuple[list[str], float]:
    block = _beginning(path)
    whole = block if len(block) < SAMPLE_BYTES else block[: block.rfind(b"\n") + 1]
    rows = [json.loads(line) for line in whole.splitlines() if line.strip()]
    return [str(row.get(column, "")) for row in rows if isinstance(row, dict)], len(whole)


def _sample_parquet(path: Path, column: str) -> tuple[list[str], float]:
    with pyarrow.parquet.ParquetFile(path) as table:
        batch = next(table.iter_batches(batch_size=SAMPLE_ROWS, columns=[column]))
        texts = [str(value or "") for value in batch.column(0).to_pylist()]
        return texts, path.stat().st_size * len(texts) / max(1, table.metadata.num_rows)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(SAMPLE_BYTES)


SAMPLERS: dict[str, Callable[[Path, str], tuple[list[str], float]]] = {
    ".txt": _sample_text,
    ".jsonl": _sample_json_lines,
    ".parquet": _sample_parquet,
}
