"""`python -m training.launcher`: torchrun, without tracebacks where a worker or a user ended it.

Takes what `python -m torch.distributed.run` takes. What went wrong is in the log above, from the
worker that it happened to; the exit code is 1. A run that became this process is closed at the end,
and the next one in line is started.
"""

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from stentor.jobs import LAUNCHER_VARIABLE
from stentor.runs import Run
from training.execution import close, hand_on

LOST = "The process that writes this run ended without a word; its last words may be in the log."


def main(arguments: list[str] | None = None) -> int:
    """Start workers, wait for all of them, and end all where one fails; return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    code, ending = 0, ("failed", LOST)
    try:
        torchrun(words)
    except SignalException as error:
        print(str(error).strip(), file=sys.stderr)
        code, ending = 1, ("stopped", "Ended by a signal.")
    except ChildFailedError as error:
        print(str(error).strip(), file=sys.stderr)
        code = 1
    if os.environ.get(LAUNCHER_VARIABLE) == str(os.getpid()):
        run = Run(Path(words[-1]))  # as launch.launch_command wrote it
        close(run, *ending)
        hand_on(run)
    return code


if __name__ == "__main__":
    sys.exit(main())
