"""`python -m training.launcher`: torchrun, without tracebacks where a worker or a user ended it.

Takes what `python -m torch.distributed.run` takes. What went wrong is in the log above, from the
worker that it happened to; the exit code is 1.
"""

import sys

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun


def main(arguments: list[str] | None = None) -> int:
    """Start workers, wait for all of them, and end all where one fails; return the exit code."""
    try:
        torchrun(arguments)
    except (SignalException, ChildFailedError) as error:
        print(str(error).strip(), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
