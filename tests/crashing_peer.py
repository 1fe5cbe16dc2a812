"""A peer for tests: it crashes at first, as llama.cpp does on some machines, and then works."""

import os
import signal
import sys

from stentor.peers.protocol import SAMPLED, Answer, Job, PeerError, Run, Series, serve


def measure(job: Job) -> Answer:
    """Crash, fail, or answer with one run of made-up times."""
    if not job.is_careful:
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.num_tokens == 1:
        raise PeerError("one token is too few")
    os.write(1, b"a native library that talks to standard output\n")
    print("and a Python one")
    runs = (Run((0.1,), (1.0,), job.num_tokens),)
    series = Series("crashing", "fp32", SAMPLED, 1, job.num_threads, 0.0, runs)
    return Answer("1.0", ("a note",), (series,))


if __name__ == "__main__":
    sys.exit(serve(measure))
