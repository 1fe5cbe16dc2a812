"""The files of a Hugging Face model folder: which there are, and what safetensors headers say.

Knows no architecture. Only JSON and safetensors are ever opened; a pickle is named, never read.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stentor.errors import ModelError

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
REVISION_DIGITS = 12
# A JSON file of a language model is a few MB; more is somebody's mistake or worse.
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class StoredTensor:
    """What a safetensors header says of one tensor; `dtype` as written there, such as F32."""

    shape: tuple[int, ...]
    dtype: str


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object, bounded in size.

    Raises:
        ModelError: the file is missing, too large or not a JSON object.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing. Download or copy the model folder again, complete.")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ModelError(f"{path} is over {MAX_JSON_BYTES >> 20} MB; that is no model's JSON.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object. Download it again.")
    return value


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a folder: one, or those that its index names.

    Raises:
        ModelError: a file is missing, or there are only pickles.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    if not (folder / INDEX_FILE).is_file():
        raise ModelError(f"{folder / WEIGHTS_FILE} is missing. {_mend(folder)}")
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names:
        raise ModelError(f"{folder / INDEX_FILE} names no weights. Download it again.")
    for name in names:
        # A name from a file is untrusted: it must not lead out of the folder, or to a pickle.
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix in ("", "."):
            raise ModelError(f"{folder / INDEX_FILE} names {name!r}, which is no file name.")
        if Path(name).suffix != ".safetensors":
            raise ModelError(f"{folder / INDEX_FILE} names {name!r}; only safetensors are opened.")
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing. {_mend(folder)}")
    return tuple(folder / name for name in sorted(names))


def _mend(folder: Path) -> str:
    """Say what to do about missing weights."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    pickles = [file.name for file in files if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        return f"{pickles[0]} is a pickle and is never opened; convert it to safetensors."
    return "Download or copy the model folder again, complete."


def is_complete(folder: Path) -> bool:
    """Tell whether every file is there, without opening the weights."""
    try:
        weight_files(folder)
    except ModelError:
        return False
    return (folder / CONFIG_FILE).is_file() and (folder / TOKENIZER_FILE).is_file()


def read_headers(files: tuple[Path, ...]) -> dict[str, StoredTensor]:
    """Return every tensor's shape and type by name, without reading the numbers.

    Raises:
        ModelError: a file is damaged or cut short.
    """
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118 - not a dictionary
                    header = stored.get_slice(name)
                    tensors[name] = StoredTensor(tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(
                f"{file} is damaged or cut short ({error}). Delete it and download it again."
            ) from error
    return tensors


def read_revision(folder: Path, files: tuple[Path, ...]) -> str:
    """Return the Hub commit of a snapshot folder, else the first digits of the weights' SHA-256."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:REVISION_DIGITS]}"
