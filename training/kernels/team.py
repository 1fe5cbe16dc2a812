"""Runs a kernel on the threads that PyTorch's products run on. Knows no operator.

A second pool of threads would have to wait: OpenMP's workers keep their cores busy for milliseconds
after a product. So kernels are handed to OpenMP itself, which such a worker takes up at once.

A kernel cuts its work into pieces whose results depend on nothing else, and each thread takes the
next piece until none is left. So no result depends on the number of threads or on their speed.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import EXACT, Callback, compiled, compiled_callback, forget

# Where the arguments are: the first is the number of pieces taken so far.
Arguments = Any
Kernel = Callable[[Arguments], None]
# Numba's and llvmlite's values have no types of their own.
Compiler = Any
# The folder whose sources the kernels are compiled from, beside the engine's.
SOURCES = Path(__file__).parent
OPENMP_NAMES = ("libgomp", "libiomp", "libomp")


def _next_piece(_typing: Compiler, arguments: Compiler) -> Compiler:
    """Return the number of the piece that the calling thread is to work on."""

    def emit(_context: Compiler, builder: Compiler, _signature: Compiler, given: Compiler) -> Any:  # noqa: ANN401
        return builder.atomic_rmw("add", given[0], ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(arguments), emit


def _as_floats(_typing: Compiler, address: Compiler) -> Compiler:
    """Return an address as a pointer to fp32 numbers."""

    def emit(_context: Compiler, builder: Compiler, _signature: Compiler, given: Compiler) -> Any:  # noqa: ANN401
        return builder.inttoptr(given[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(address), emit


next_piece: Callable[[Arguments], int] = intrinsic(_next_piece)
_pointer: Callable[[int], Any] = intrinsic(_as_floats)


@compiled(EXACT)
def floats(address: int, size: int) -> NDArray[Any]:
    """Return the fp32 numbers at an address as a flat array."""
    numbers: NDArray[Any] = carray(_pointer(address), (size,))
    return numbers


def run(kernel: Kernel, *arguments: torch.Tensor | int) -> None:
    """Run a kernel over its arguments: tensors as addresses, sizes as they are.

    The caller keeps the tensors alive, contiguous, fp32 (int64 for tokens) and of the right sizes:
    compiled code looks at no bounds.
    """
    numbers = [value if isinstance(value, int) else value.data_ptr() for value in arguments]
    given = (ctypes.c_int64 * (len(numbers) + 1))(0, *numbers)
    num_threads = torch.get_num_threads()
    parallel = _openmp() if num_threads > 1 else None
    address = _callback(kernel).address
    if parallel is None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(given))
    else:
        parallel(address, ctypes.addressof(given), num_threads, 0)


def is_available() -> bool:
    """Tell whether kernels can use as many threads as PyTorch's own operators."""
    return torch.get_num_threads() == 1 or _openmp() is not None


@cache
def _callback(kernel: Kernel) -> Callback:
    """Return the machine code of a kernel; compiled at the first use."""
    signature = types.void(types.CPointer(types.int64))
    try:
        return compiled_callback(kernel, signature, SOURCES)
    except Exception:  # noqa: BLE001 - Numba reads and writes files: damaged, or a full disk
        forget(SOURCES)
        return compiled_callback(kernel, signature, SOURCES)


@cache
def _openmp() -> Callable[[int, int, int, int], None] | None:
    """Return `GOMP_parallel` of the OpenMP library that PyTorch has loaded; None: there is none.

    GNU's and LLVM's libraries have it: https://gcc.gnu.org/onlinedocs/libgomp/, "libgomp ABI".
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return None
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    paths = sorted({line.split(maxsplit=5)[5] for line in lines if line.count(" /") == 1})
    torch_folder = str(Path(torch.__file__).parent.parent)
    for path in sorted(paths, key=lambda path: not path.startswith(torch_folder)):
        if Path(path).name.startswith(OPENMP_NAMES):
            parallel = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if parallel is not None:
                parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
                parallel.restype = None
                found: Callable[[int, int, int, int], None] = parallel
                return found
    return None
