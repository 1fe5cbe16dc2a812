"""A full or failing disk said in words: what could not be written, and how much is free.

Knows no runs. Reading errors are not its business.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from stentor.errors import RunError

# No room, a quota or a limit on one file reached, a failing disk, one mounted read-only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class DiskError(RunError):
    """A file could not be written: no room, no permission, or a failing disk."""


@contextmanager
def writing(what: str, folder: Path, *, only_when_full: bool = False) -> Iterator[None]:
    """Turn an error of the block, which writes `what` below `folder`, into a message for the user.

    `only_when_full`: the block does other things as well, whose errors are left as they are.

    Raises:
        DiskError: the block raised an OSError, or safetensors' own wrapping of one.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if only_when_full and not is_full_disk(error):
            raise
        raise DiskError(describe_failure(what, folder, error)) from error


def is_full_disk(error: BaseException | None) -> bool:
    """Tell whether an error says that a disk takes no more."""
    return isinstance(error, OSError) and error.errno in FULL


def describe_failure(what: str, folder: Path, error: Exception) -> str:
    """Return what could not be written where, the system's reason, and what is free there."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{what} could not be written to {folder}: {reason}. {_free(folder)}"


def _free(folder: Path) -> str:
    """Return the free space of the disk that holds `folder`."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:  # a disk that is gone says nothing about its size
        return "The disk does not answer."
    return f"Free there: {_megabytes(usage.free)} of {_megabytes(usage.total)}."


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def flush_files(folder: Path) -> None:
    """Flush every file of a folder, and their names, to the disk: they outlive a power cut.

    Raises:
        OSError: what was written cannot be kept.
    """
    for path in folder.iterdir():
        _flush(path)
    flush_names(folder)


def flush_names(folder: Path) -> None:
    """Flush what was renamed, made and deleted in a folder."""
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
