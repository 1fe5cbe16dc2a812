"""What is measured: models, the windows that they are trained on, and files of generated text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import datasets
import numpy as np

from stentor.bench.random_checkpoint import SHAPES as REAL_SHAPES
from stentor.bench.random_checkpoint import write_random_checkpoint
from stentor.errors import DataError, OptionError
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.models import MODELS
from training.bench.plan import DEMO_BIG, STENTOR_30M, STENTOR_BIG
from training.generated_text import FLAVOURS, generate_documents
from training.settings import WINDOW_TOKENS

SEED = 4
# Windows per step and per forward pass. On a GPU they are the card's; on a processor those of the
# recipe that made the demo pair, fewer where a step would take minutes.
GPU_BATCH = (128, 16)
CPU_BATCHES = {DEMO_BIG: (8, 4), STENTOR_30M: (4, 4), STENTOR_BIG: (2, 2)}
# Documents are this much generated text, about as long as a page of the web.
DOCUMENT_CHARACTERS = 3_000
# What datasets calls the readers of files.
FILE_KINDS = {".txt": "text", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class Subject:
    """One model to train: the trained demo model, or random weights of a real shape."""

    name: str
    checkpoint: Checkpoint
    batch_size: int
    micro_batch_size: int

    def title(self) -> str:
        """Return the model and its size."""
        millions = self.checkpoint.num_parameters / 1e6
        return f"{self.name} ({millions:.1f} M parameters)"


def open_subject(name: str, folder: Path, device: str) -> Subject:
    """Return a model; random weights are written below `folder`."""
    if name in REAL_SHAPES:
        model_folder = folder / name
        write_random_checkpoint(model_folder, REAL_SHAPES[name])
    else:
        known = MODELS[name].folder
        assert known is not None, f"{name} is not embedded"
        model_folder = known
    batch_size, micro_batch_size = GPU_BATCH if device == "cuda" else CPU_BATCHES[name]
    return Subject(name, open_checkpoint_folder(model_folder), batch_size, micro_batch_size)


def write_windows(checkpoint: Checkpoint, num_windows: int, file: Path) -> None:
    """Write packed windows of generated text as the model's tokenizer reads it, (n, 512) int64.

    Each ends with token 0, as an end-of-sequence would.
    """
    width = WINDOW_TOKENS - 1
    tokens = list(islice(_tokens(checkpoint), num_windows * width))
    windows = np.zeros((num_windows, WINDOW_TOKENS), dtype=np.int64)
    windows[:, :width] = np.array(tokens).reshape(num_windows, width)
    np.save(file, windows)


def _tokens(checkpoint: Checkpoint) -> Iterator[int]:
    for document in _mixed_documents():
        yield from checkpoint.tokenizer.encode(document, add_special_tokens=False).ids


def write_text(file: Path, num_bytes: int, paths: tuple[str, ...] = ()) -> int:
    """Write text as .jsonl with a column `text`; return the bytes of the text itself.

    It is generated, or comes from the files: at most `num_bytes` and whole documents.

    Raises:
        OptionError: the files have no text.
        DataError: there is no space for it.
    """
    documents = _documents_of(paths) if paths else _mixed_documents()
    written = 0
    try:
        with file.open("w", encoding="utf-8") as stream:
            for document in documents:
                if written >= num_bytes:
                    break
                stream.write(json.dumps({"text": document}) + "\n")
                written += len(document.encode("utf-8"))
    except OSError as error:
        raise DataError(
            f"{num_bytes / 1e9:.2f} GB of text cannot be written below {file.parent} "
            f"({error.strerror}). Free some space, or set TMPDIR to another folder."
        ) from error
    if not written:
        raise OptionError(f"There is no text in {', '.join(paths)}.")
    return written


def _documents_of(paths: tuple[str, ...]) -> Iterator[str]:
    """Yield the documents of local files as datasets reads them."""
    for path in paths:
        kind = FILE_KINDS.get(Path(path).suffix.lower())
        if kind is None:
            raise OptionError(f"{path} has an unknown ending; known: {', '.join(FILE_KINDS)}.")
        rows = datasets.load_dataset(kind, data_files=path, split="train", streaming=True)
        if "text" not in (next(iter(rows), None) or {}):
            raise OptionError(f"{path} has no column called text.")
        yield from (row["text"] for row in rows)


def _mixed_documents() -> Iterator[str]:
    """Yield pages without end: paragraphs of one flavour, the flavours in turn."""
    streams = [generate_documents(flavour, SEED) for flavour in FLAVOURS]
    while True:
        for stream in streams:
            yield _page(stream)


def _page(paragraphs: Iterator[str]) -> str:
    page: list[str] = []
    length = 0
    while length < DOCUMENT_CHARACTERS:
        page.append(next(paragraphs))
        length += len(page[-1])
    return "\n\n".join(page)
