"""`@compiled`: Numba's compiler as this engine uses it, and where it keeps what it compiled.

Compiled code is kept per processor and per content of these sources: Numba itself notices a change
of the file of an entry function, not of the functions that it calls.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba

from stentor.home import kernels_folder

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be split over the lanes of a register. The order is fixed when a function is compiled, so
# equal inputs give equal bits.
REORDER = frozenset({"reassoc", "contract"})
EXACT = frozenset({"contract"})


def compiled(fastmath: frozenset[str] = REORDER) -> Callable[[Function], Function]:
    """Compile a function that runs without the interpreter's lock; see fastmath above."""

    def decorate(function: Function) -> Function:
        return _compile(function, fastmath)

    return decorate


def compiled_entry(function: Function) -> Function:
    """Compile a function that Python calls, and keep the machine code for the next start."""
    folder, config = _folder(), numba.config
    earlier = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # There or nowhere: beside the sources nothing tells old kernels from new ones.
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), "UserProvidedCacheLocator"
        return _compile(function, REORDER, cache=True)
    except (OSError, RuntimeError):  # nowhere to write: compile anew at each start
        return _compile(function, REORDER)
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = earlier


def _compile(function: Function, fastmath: frozenset[str], *, cache: bool = False) -> Function:
    # Python's check for a division by zero is a branch that keeps LLVM from vectorising the loop.
    result: Function = numba.njit(
        nogil=True, error_model="numpy", cache=cache, fastmath=set(fastmath)
    )(function)
    return result


def is_kept() -> bool:
    """Tell whether an earlier start left compiled code for this version of the sources."""
    return any(_folder().rglob("*.nbc"))


def forget() -> None:
    """Delete what earlier starts left: a damaged file would end every start."""
    with suppress(OSError):
        for file in _folder().rglob("*.nb?"):  # Numba does not make the folders a second time
            file.unlink()


def _folder() -> Path:
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return kernels_folder() / digest.hexdigest()
