"""`@compiled`: Numba's compiler as this project uses it, and where it keeps what it compiled.

Compiled code is kept per processor and per content of these sources: Numba itself notices a change
of the file of an entry function, not of the functions that it calls. Kernels of another folder,
which may call those of this one, name it as `sources`.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numba

from stentor.home import kernels_folder

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


class Callback(Protocol):
    """A compiled function that C can call."""

    address: int


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
    return _kept(lambda cache: _compile(function, REORDER, cache=cache), None)


def compiled_callback(
    function: Callable[..., Any],
    signature: Any,  # noqa: ANN401 - of Numba's types
    sources: Path,
) -> Callback:
    """Compile, at once, a function that C calls, and keep the machine code; see compiled_entry.

    The result's `address` is the machine code's for as long as the result lives.
    """

    def compile_it(cache: bool) -> Callback:
        result: Callback = numba.cfunc(
            signature, nopython=True, error_model="numpy", cache=cache, fastmath=set(REORDER)
        )(function)
        return result

    return _kept(compile_it, sources)


def _kept(compile_it: Callable[[bool], Result], sources: Path | None) -> Result:
    """Compile with the folder for these sources as the place that keeps the code."""
    folder, config = _folder(sources), numba.config
    earlier = config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # There or nowhere: beside the sources nothing tells old kernels from new ones.
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = str(folder), "UserProvidedCacheLocator"
        return compile_it(True)
    except (OSError, RuntimeError):  # nowhere to write: compile anew at each start
        return compile_it(False)
    finally:
        config.CACHE_DIR, config.CACHE_LOCATOR_CLASSES = earlier


def _compile(function: Function, fastmath: frozenset[str], *, cache: bool = False) -> Function:
    # Python's check for a division by zero is a branch that keeps LLVM from vectorising the loop.
    result: Function = numba.njit(
        nogil=True, error_model="numpy", cache=cache, fastmath=set(fastmath)
    )(function)
    return result


def is_kept(sources: Path | None = None) -> bool:
    """Tell whether an earlier start left compiled code for this version of the sources."""
    return any(_folder(sources).rglob("*.nbc"))


def forget(sources: Path | None = None) -> None:
    """Delete what earlier starts left: a damaged file would end every start."""
    with suppress(OSError):
        for file in _folder(sources).rglob("*.nb?"):  # Numba makes the folders only once
            file.unlink()


def _folder(sources: Path | None) -> Path:
    digest = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for folder in (Path(__file__).parent, *([sources] if sources else [])):
        for file in sorted(folder.glob("*.py")):
            digest.update(file.read_bytes())
    return kernels_folder() / digest.hexdigest()
