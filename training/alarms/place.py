"""Where a thread is at this moment: in which piece of work, and on which line of ours.

A thread that hangs says nothing more; another one of its process can still see where it stands.
"""

import sys
from dataclasses import dataclass
from types import FrameType

# This work writes files all the time, and tells of it once in an hour.
PREPARATION = "the preparation of text"
# Work between steps, by the module that does it, that may take long. A test keeps the names true.
WORK = {
    "training.validation": "a validation",
    "training.checkpoint": "a checkpoint",
    "training.retention": "a look at the checkpoints",
    "training.sample": "samples",
    "training.data": PREPARATION,
    "training.expansion": "the growth of the model",
    "training.growth_report": "a measurement of the growth",
    "training.tokenizer": "the training of a tokenizer",
    "training.halt": "a look at the windows of a bad step",
    "torch._dynamo.convert_frame": "compiling",
    "torch._inductor.compile_fx": "compiling",
}
OURS = "training"


@dataclass(frozen=True)
class Place:
    """`work`: what the thread does between steps, None within one; `line`: where in our code."""

    work: str | None = None
    line: str = ""


def place_of(thread: int) -> Place:
    """Return where a thread of this process is, by its identifier; nowhere if it has ended."""
    frame = sys._current_frames().get(thread)
    work, line = None, ""
    innermost = frame.f_code.co_name if frame else ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        work = WORK.get(module, work)  # the outermost counts: that is what the trainer is about
        if not line and module.split(".")[0] == OURS:
            line = _line_of(module, frame, innermost)
        frame = frame.f_back
    return Place(work, line)


def _line_of(module: str, frame: FrameType, innermost: str) -> str:
    name = frame.f_code.co_name
    inside = f", in {innermost}" if innermost != name else ""
    return f"{module}.{name}, line {frame.f_lineno}{inside}"
