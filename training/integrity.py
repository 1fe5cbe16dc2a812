"""Digests of a checkpoint's files, so that a flipped byte anywhere is noticed.

trainer.json lists the BLAKE2b digest of every other file under `files`, and under `digest` that of
its own values: damage is noticed in each of them. A folder from before digests has neither, and is
judged by its headers alone. Damage is what this is for, not attack: whoever can write the folder
can write the digests.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from stentor.errors import ModelError
from stentor.loading import read_json
from stentor.runs import write_json

TRAINER_FILE = "trainer.json"
FILES_KEY = "files"
OWN_KEY = "digest"
DIGEST_BYTES = 16


def write_sealed(folder: Path, details: dict[str, Any]) -> None:
    """Write `details` as the trainer.json of a folder whose other files are all complete.

    Digests among them belong to the checkpoint that they were read from, and are replaced.
    """
    own = {name: value for name, value in details.items() if name != OWN_KEY}
    sealed = {**own, FILES_KEY: digests_of(folder)}
    write_json(folder / TRAINER_FILE, {**sealed, OWN_KEY: _own_digest(sealed)})


def check_sealed(folder: Path) -> dict[str, Any]:
    """Return the values of a folder's trainer.json after comparing every digest.

    Raises:
        ModelError: a file is missing or is not what was written. A file that was added is not
            looked at.
    """
    values = read_json(folder / TRAINER_FILE)
    if FILES_KEY not in values and OWN_KEY not in values:
        return values
    rest = {name: value for name, value in values.items() if name != OWN_KEY}
    if values.get(OWN_KEY) != _own_digest(rest) or not isinstance(rest.get(FILES_KEY), dict):
        raise ModelError(f"{folder / TRAINER_FILE} is not what was written (its digest differs).")
    found = digests_of(folder)
    for name, digest in values[FILES_KEY].items():
        if name not in found:
            raise ModelError(f"{folder / name} is missing.")
        if digest != found[name]:
            raise ModelError(f"{folder / name} is not what was written (its digest differs).")
    return values


def digests_of(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder but trainer.json, by name.

    Raises:
        ModelError: a file cannot be read.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return {name: _file_digest(folder / name) for name in names if name != TRAINER_FILE}


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, _blake2b).hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}).") from error


def _blake2b() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def _own_digest(values: dict[str, Any]) -> str:
    """Return the digest of JSON values, whatever order and spaces they are written in."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
