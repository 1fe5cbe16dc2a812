"""Digests of a checkpoint's files."""

import json
from pathlib import Path

import pytest

from stentor.errors import ModelError
from training.integrity import TRAINER_FILE, check_sealed, write_sealed

DETAILS = {"stage": "general", "step": 8, "validation_loss": 2.5}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    (tmp_path / "words.json").write_text('{"a": 1}\n')
    write_sealed(tmp_path, DETAILS)
    return tmp_path


def test_what_was_written_is_read(folder: Path) -> None:
    values = check_sealed(folder)
    assert {name: values[name] for name in DETAILS} == DETAILS
    (folder / "notes.txt").write_text("A file that somebody added.")
    assert check_sealed(folder) == values


def test_every_single_flipped_bit_is_noticed(folder: Path) -> None:
    """Also those in trainer.json itself, unless they change a space between its values."""
    for path in sorted(folder.iterdir()):
        original = path.read_bytes()
        for position, byte in enumerate(original):
            if path.name == TRAINER_FILE and byte in b" \n":
                continue
            path.write_bytes(original[:position] + bytes([byte ^ 4]) + original[position + 1 :])
            with pytest.raises(ModelError, match=path.name):
                check_sealed(folder)
        path.write_bytes(original)
    check_sealed(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "words.json").unlink()
    with pytest.raises(ModelError, match=r"words\.json is missing"):
        check_sealed(folder)


def test_a_folder_from_before_digests_is_read(folder: Path) -> None:
    (folder / TRAINER_FILE).write_text(json.dumps(DETAILS))
    assert check_sealed(folder) == DETAILS


def test_details_of_another_checkpoint_are_sealed_anew(folder: Path) -> None:
    """A converted model takes over where its weights came from, and with it old digests."""
    old = check_sealed(folder)
    (folder / "weights").write_bytes(b"other")
    write_sealed(folder, old)
    assert check_sealed(folder)["files"] != old["files"]
