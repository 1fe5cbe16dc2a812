"""A child for tests of the training bench: it answers, fails, dies or is interrupted, as asked."""

import os
import signal
import sys

from stentor.errors import DataError
from training.bench.plan import DataAnswer, DataJob

JOB = DataJob


def measure(job: DataJob) -> DataAnswer:
    """Do what the name of the text file says."""
    print("a library that talks to standard output")
    if job.text_file == "fails":
        raise DataError("There is no text here.")
    if job.text_file == "breaks":
        raise ValueError("a mistake of its own")
    if job.text_file == "starved":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.text_file == "crashes":
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.text_file == "interrupted":
        raise KeyboardInterrupt
    threads = int(os.environ["OMP_NUM_THREADS"])
    return DataAnswer(seconds=2.0, num_tokens=threads, peak_bytes=len(os.environ["TMPDIR"]))
