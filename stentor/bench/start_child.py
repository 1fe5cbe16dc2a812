"""One start, measured in a process of its own: load the models, ask each for its first token.

    python -P stentor/bench/start_child.py < job.json

It is run by its path, so that it imports what a command imports that generates, and not the bench.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import pairwise

from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.errors import ModelError, StentorError
from stentor.knobs import from_json, to_json
from stentor.store import ModelStore

FAILED = 2  # exit code


@dataclass(frozen=True)
class StartJob:
    """What to start. `began` is the parent's time.perf_counter, which all processes share."""

    began: float
    folders: tuple[str, ...]
    prompts: tuple[tuple[int, ...], ...]  # of each model
    precision: str
    num_threads: int


@dataclass(frozen=True)
class StartAnswer:
    """Seconds of one start, in the order in which they passed."""

    python_seconds: float  # until everything was imported
    load_seconds: tuple[float, ...]  # one model after the other
    first_seconds: tuple[float, ...]  # all were asked at once: until each had its token
    seconds: float  # from the start of the process until all had one


def start(job: StartJob) -> StartAnswer:
    """Load the models, then let each draw a token.

    Raises:
        StentorError: a model cannot be loaded, or gave no token.
    """
    marks = [time.perf_counter()]
    with ModelStore(job.num_threads, job.precision) as store:
        engines = []
        for folder in job.folders:
            engines.append(store.load(folder).engine)
            marks.append(time.perf_counter())
        settings = SamplingSettings(max_new_tokens=1)
        streams = [
            engine.submit(GenerationRequest(prompt, settings, "start"))
            for engine, prompt in zip(engines, job.prompts, strict=True)
        ]
        for stream in streams:
            stream.wait()
        ended = time.perf_counter()
        tokens = [stream.tokens for stream in streams]
        if not all(tokens):
            errors = [stream.snapshot().error or "no token" for stream in streams]
            raise ModelError(f"A first token was not drawn: {', '.join(errors)}.")
    return StartAnswer(
        python_seconds=marks[0] - job.began,
        load_seconds=tuple(after - before for before, after in pairwise(marks)),
        first_seconds=tuple(records[0].seconds for records in tokens),
        seconds=ended - job.began,
    )


def main() -> int:
    """Read the job, print the answer."""
    try:
        answer = start(from_json(StartJob, json.load(sys.stdin)))
    except StentorError as error:
        print(error, file=sys.stderr)
        return FAILED
    print(json.dumps(to_json(answer)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
