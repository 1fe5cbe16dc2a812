"""Run functions of fixed shapes as CUDA graphs where they can be captured, else plainly.

A graph replays the kernels of a function with one launch. Its inputs and outputs stay where they
were at capture, so inputs are copied in, and outputs hold until the same key runs again. Knows no
models. The rules of capture: docs.pytorch.org, notes on CUDA semantics, "CUDA Graphs".
"""

import sys
from collections.abc import Callable, Hashable
from functools import cache
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

Outputs = tuple[Tensor, ...]
# Records a function of no arguments; returns how to run the record and where its results appear.
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]

# Libraries choose kernels and take workspace at their first calls, which must not be captured.
NUM_WARM_UPS = 2

# torch allows one capture at a time in a process. Nor may a graph start while some function warms
# up: both may use the workspace that cuBLAS keeps for the side stream.
_exclusive = Lock()


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """Return the stream of a device on which functions warm up and are captured, nothing else.

    One for the process, as torch keeps a workspace of cuBLAS, 32 MiB on an H100, for each stream.
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class CudaCapture:
    """Records graphs on the current device, which share one pool of memory.

    That is safe because all graphs of a process run one after the other, on the default stream, and
    because the outputs of each are kept.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = _side_stream(torch.cuda.current_device())

    def __call__(self, function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        """Return the graph's replay and its outputs; they hold nothing before the first replay.

        Raises:
            RuntimeError: the function does something that cannot be captured.
        """
        graph = torch.cuda.CUDAGraph()
        caller = torch.cuda.current_stream()
        with _exclusive:
            self._stream.wait_stream(caller)
            with torch.cuda.stream(self._stream):
                for _ in range(NUM_WARM_UPS):
                    function()
            caller.wait_stream(self._stream)
            # The outer stream context brings the caller's stream back even where a capture fails;
            # thread_local, because another model's worker may take memory meanwhile.
            with (
                torch.cuda.stream(self._stream),
                torch.cuda.graph(
                    graph, self._pool, self._stream, capture_error_mode="thread_local"
                ),
            ):
                outputs = function()

        def replay() -> None:
            with _exclusive:
                graph.replay()

        return replay, outputs


class _Recording(NamedTuple):
    inputs: Outputs
    replay: Callable[[], None]
    outputs: Outputs


class Graphs:
    """The captured functions of one decoder, by key. Not thread-safe: its worker owns it."""

    def __init__(self, capture: Capture | None) -> None:
        """`capture`: None runs every function plainly."""
        self._capture = capture
        self._recordings: dict[Hashable, _Recording] = {}

    @property
    def is_capturing(self) -> bool:
        """Tell whether functions run as graphs."""
        return self._capture is not None

    def run(self, key: Hashable, function: Callable[..., Outputs], *inputs: Tensor) -> Outputs:
        """Return function(*inputs), captured under `key` at the first call.

        The function of a key, and the shapes of its inputs, are always the same. The outputs are
        overwritten when the key runs again.
        """
        if self._capture is not None and key not in self._recordings:
            self._record(self._capture, key, function, inputs)
        recording = self._recordings.get(key)
        if recording is None:
            return function(*inputs)
        for static, given in zip(recording.inputs, inputs, strict=True):
            static.copy_(given)
        recording.replay()
        return recording.outputs

    def clear(self) -> None:
        """Let the graphs and their memory go."""
        self._recordings.clear()

    def _record(
        self, capture: Capture, key: Hashable, function: Callable[..., Outputs], inputs: Outputs
    ) -> None:
        static = tuple(tensor.clone() for tensor in inputs)
        try:
            replay, outputs = capture(lambda: function(*static))
        except RuntimeError as error:  # torch raises it, and subclasses, for whatever CUDA refuses
            reason = (str(error) or type(error).__name__).splitlines()[0]
            print(f"No CUDA graphs, so every step is slower: {reason}", file=sys.stderr, flush=True)
            self._capture = None
            self._recordings.clear()
        else:
            self._recordings[key] = _Recording(static, replay, outputs)


def release_memory() -> None:
    """Give unused GPU memory back to the driver; nothing happens where CUDA was never used."""
    with _exclusive:
        torch.cuda.empty_cache()
