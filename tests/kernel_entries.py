"""`@kept`: compile a function that a test calls around kernels, and keep the code between runs.

Beside what pytest keeps, for each content of the kernels, as the engine keeps its own elsewhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba

from stentor.engine.cpu.compiled import _folder

Function = TypeVar("Function", bound=Callable[..., Any])


def kept(function: Function) -> Function:
    folder = Path(__file__).parents[1] / ".pytest_cache" / "d" / "kernels" / _folder(None).name
    earlier = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(folder)
    try:
        result: Function = numba.njit(nogil=True, error_model="numpy", cache=True)(function)
    finally:
        numba.config.CACHE_DIR = earlier
    return result
