"""Documents that can be told apart by every word, and a small stage that reads them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.settings import PretrainSettings, Source
from training.tokenise import is_held_out

END = 0
SETTINGS = PretrainSettings(num_steps=5, batch_size=2, micro_batch_size=2, validation_windows=3)


def texts(num_documents: int, name: str = "word") -> list[str]:
    """Return documents that can be told apart by every word in them."""
    return [f"{name}{number} " * (20 + number % 50) for number in range(num_documents)]


def trained_texts(num_documents: int) -> list[str]:
    """Return documents that are not held out."""
    found = (f"word{number} " * 30 for number in range(10 * num_documents + 100))
    return [text for text in found if not is_held_out(text)][:num_documents]


def held_out_text(num_words: int) -> str:
    """Return a document of so many words that is held out."""
    found = (f"kept{number} " * num_words for number in range(10_000))
    return next(text for text in found if is_held_out(text))


def written(path: Path, documents: list[str], weight: float = 1.0) -> Source:
    """Write documents to a .jsonl file and return it as a source."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return Source(kind="files", paths=(str(path),), weight=weight)


def stream_of(
    tokenizer: Tokenizer, documents: Iterator[str] | list[str], num_windows: int
) -> NDArray[np.int_]:
    """Return the (num_windows, 511) first tokens of some documents, each with its end."""
    stream: list[int] = []
    for text in documents:
        stream += [*tokenizer.encode(text).ids, END]
    return np.array(stream[: num_windows * 511]).reshape(num_windows, 511)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return every file of windows and every note below a folder, by its path."""
    files = [path for path in folder.rglob("*") if path.suffix in (".bin", ".json")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}
