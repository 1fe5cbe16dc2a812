"""A full disk in words."""

import errno
from pathlib import Path

import pytest
from safetensors import SafetensorError

from training.disk import DiskError, is_full_disk, writing

FULL = OSError(errno.ENOSPC, "No space left on device")


def test_the_message_says_what_where_why_and_what_is_free(tmp_path: Path) -> None:
    with pytest.raises(DiskError) as caught, writing("The status", tmp_path / "not" / "yet"):
        raise FULL
    message = str(caught.value)
    assert message.startswith(f"The status could not be written to {tmp_path}/not/yet: No space")
    assert " MB of " in message


def test_safetensors_has_errors_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="os error 28"), writing("Weights", tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_errors_that_are_not_the_disks_are_left_alone_where_it_matters(tmp_path: Path) -> None:
    lost = ConnectionResetError(errno.ECONNRESET, "Connection reset")
    with pytest.raises(ConnectionResetError), writing("Text", tmp_path, only_when_full=True):
        raise lost
    with pytest.raises(DiskError), writing("Text", tmp_path, only_when_full=True):
        raise FULL
    assert is_full_disk(FULL) and not is_full_disk(lost) and not is_full_disk(None)
