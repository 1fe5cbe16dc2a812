"""Training text that visitors upload: kept under safe names in one folder, bounded.

Where folders of the machine are closed, only files that are listed there can be trained on. Knows
no Gradio.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from stentor.errors import DataError
from stentor.home import uploads_folder
from stentor.ui.shared import file_size
from stentor.ui.train_allowed import must_be_allowed

TEXT_KINDS = (".txt", ".jsonl", ".parquet")
MAX_FILE_BYTES = 200_000_000
MAX_FOLDER_BYTES = 2_000_000_000
MAX_NAME = 80


def list_texts() -> list[str]:
    """Return the names of the uploaded files."""
    folder = uploads_folder()
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if _is_text(path))


def save_texts(paths: Sequence[str], refusal: str | None) -> list[str]:
    """Copy uploaded files into the uploads folder under safe names; return those names.

    Raises:
        RunError: training, and so uploading, is not allowed here.
        DataError: a file of another kind, or too much.
    """
    must_be_allowed(refusal)
    folder = uploads_folder()
    folder.mkdir(parents=True, exist_ok=True)
    sources = [Path(path) for path in paths]
    for source in sources:
        _check_upload(source)
    held = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    if held + sum(source.stat().st_size for source in sources) > MAX_FOLDER_BYTES:
        raise DataError(
            f"{folder} may hold {file_size(MAX_FOLDER_BYTES)} and has {file_size(held)} already. "
            "Delete files there that you no longer need."
        )
    return [_copy(source, folder) for source in sources]


def safe_name(name: str) -> str:
    """Return a file name of letters, digits, `_` and `-` and its kind, without any folder."""
    base = re.split(r"[/\\]", name)[-1]
    stem, dot, kind = base.rpartition(".")
    cleaned = re.sub(r"[^\w-]+", "-", stem if dot else base).strip("-")
    return f"{cleaned[:MAX_NAME] or 'text'}.{kind.lower()}"


def _check_upload(source: Path) -> None:
    if source.suffix.lower() not in TEXT_KINDS:
        raise DataError(f"{source.name[:MAX_NAME]} is none of {', '.join(TEXT_KINDS)}.")
    size = source.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise DataError(
            f"{source.name[:MAX_NAME]} has {file_size(size)}; a file must have some text and at "
            f"most {file_size(MAX_FILE_BYTES)}. Cut it into parts, or use the command line."
        )


def _copy(source: Path, folder: Path) -> str:
    """Copy to a name that is not taken; `x` mode decides races."""
    name = safe_name(source.name)
    stem, _, kind = name.rpartition(".")
    for number in range(1, 1_000):
        target = folder / (name if number == 1 else f"{stem}-{number}.{kind}")
        try:
            with source.open("rb") as reading, target.open("xb") as writing:
                shutil.copyfileobj(reading, writing)
        except FileExistsError:
            continue
        return target.name
    raise DataError(f"There are too many files called {name}. Delete some in {folder}.")


def _is_text(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.suffix.lower() in TEXT_KINDS
