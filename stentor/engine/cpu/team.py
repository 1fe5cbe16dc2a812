"""Several threads that compute one step together and meet between its parts.

The leader is the engine's worker; the helpers are threads of the same process that sleep between
steps. Within a step they meet at a counter in shared memory: a meeting takes less than waking a
thread, and there are some two hundred of them in a step.
"""

import os
import platform
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from stentor.engine.cpu.compiled import EXACT, compiled

Counter = NDArray[np.int64]
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
PATIENCE = 64  # turns of a waiting loop, a few microseconds
FREE = 2**62  # of the counter: nobody waits any more


@intrinsic
def _add_and_read(_typing: Any, counter: Any, amount: Any) -> Any:  # noqa: ANN401
    """Add to the first element of an int64 array, seen by all threads, and return the sum."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        old = builder.atomic_rmw("add", array.data, arguments[1], "seq_cst")
        return builder.add(old, arguments[1])

    return types.int64(counter, types.int64), emit


@intrinsic
def _read(_typing: Any, counter: Any) -> Any:  # noqa: ANN401
    """Read the first element of an int64 array as the other threads left it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(array.data, ordering="acquire", align=8)

    return types.int64(counter), emit


@intrinsic
def _relax(_typing: Any) -> Any:  # noqa: ANN401
    """Tell an x86 core that this is a waiting loop: its other thread runs faster."""

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        if IS_X86:
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def _let_others_run(_typing: Any) -> Any:  # noqa: ANN401
    """Give the core to another thread of the machine, where the system has a call for that."""

    def emit(context: Any, builder: Any, _signature: Any, _arguments: Any) -> Any:  # noqa: ANN401
        if os.name == "posix":
            _call(builder, "sched_yield", ir.IntType(32))
        return context.get_dummy_value()

    return types.void(), emit


def _call(builder: Any, name: str, result: Any) -> None:  # noqa: ANN401
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, []), name)
    builder.call(function, [])


@compiled(EXACT)
def meet(counter: Counter, arrivals: int, num_threads: int) -> int:
    """Wait until all threads are here; pass the result to the next meeting as `arrivals`.

    The first meeting of a step gets 0, and the counter is 0 before the step.
    """
    if num_threads == 1:
        return arrivals
    arrivals += num_threads
    if _add_and_read(counter, 1) < arrivals:
        num_turns = 0
        while _read(counter) < arrivals:
            _relax()
            num_turns += 1
            if num_turns > PATIENCE:  # somebody else has the core of the one who is missing
                _let_others_run()
    return arrivals


class Team:
    """Runs work(thread, num_threads) on several threads; the caller is thread 0.

    `counter` is where they meet; see meet.
    """

    def __init__(self, name: str) -> None:
        self.counter = np.zeros(1, np.int64)
        self._name = name
        self._changed = Condition()
        self._work: Callable[[int, int], None] | None = None
        self._num_threads = 1
        self._turn = 0  # counts the pieces of work, so that a helper takes each one once
        self._num_working = 0
        self._problem: BaseException | None = None
        self._helpers: list[Thread] = []
        self._is_closed = False

    def run(self, work: Callable[[int, int], None], num_threads: int) -> None:
        """Run the work on `num_threads` threads and wait until all have finished it.

        Raises:
            BaseException: as the work raised it, on whichever thread.
        """
        self.counter[0] = 0
        if num_threads > 1:
            self._start(work, num_threads)
        self._do(work, 0, num_threads)
        if num_threads > 1:
            with self._changed:
                self._changed.wait_for(lambda: self._num_working == 0)
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def close(self) -> None:
        """End the helpers."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _do(self, work: Callable[[int, int], None], thread: int, num_threads: int) -> None:
        try:
            work(thread, num_threads)
        except BaseException as problem:  # noqa: BLE001 - `run` raises it when all have finished
            self._problem = problem
            self.counter[0] = FREE

    def _start(self, work: Callable[[int, int], None], num_threads: int) -> None:
        while len(self._helpers) < num_threads - 1:
            index = len(self._helpers) + 1
            name = f"{self._name} helper {index}"
            helper = Thread(target=self._help, args=(index, self._turn), name=name, daemon=True)
            helper.start()
            self._helpers.append(helper)
        with self._changed:
            self._work, self._num_threads = work, num_threads
            self._num_working = num_threads - 1
            self._turn += 1
            self._changed.notify_all()

    def _help(self, index: int, turn: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._turn != turn)  # noqa: B023
                if self._is_closed:
                    return
                turn, work, num_threads = self._turn, self._work, self._num_threads
            if work is None or index >= num_threads:
                continue
            self._do(work, index, num_threads)
            with self._changed:
                self._num_working -= 1
                self._changed.notify_all()
