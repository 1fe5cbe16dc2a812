"""What a peer is asked and what it answers: one JSON object each way, on standard input and output.

A run is some users who ask at the same moment and are then served to the end. Whoever measures
repeats it by the same rule (`repeated`) and reports every run. Standard library only.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stentor.knobs import from_json, to_json

# A run of a second or less is repeated, so that one interruption does not decide a figure.
MEASURE_SECONDS = 3.0
MAX_RUNS = 5
FAILED = 2  # exit code
# How tokens are drawn: with the bench's settings, or the likeliest (no sampler to pay for).
SAMPLED, GREEDY = "sampled", "greedy"
DRAWINGS = (SAMPLED, GREEDY)


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama that a writer of another file format needs; see loading.LlamaShape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int
    rms_norm_eps: float
    rope_theta: float
    is_tied: bool


@dataclass(frozen=True)
class Job:
    """What to measure. `prompts` has one prompt for each of the most users, all of one length."""

    folder: str
    files: tuple[str, ...]
    shape: Shape
    work_folder: str
    prompts: tuple[tuple[int, ...], ...]
    users: tuple[int, ...]
    num_tokens: int
    temperature: float
    top_p: float
    num_threads: int
    is_on_gpu: bool
    is_careful: bool = False  # leave out code for this very processor: with it, the peer crashed


@dataclass(frozen=True)
class Run:
    """Seconds from the moment when all asked: to each user's first token, and to the last one."""

    first_seconds: tuple[float, ...]
    last_seconds: tuple[float, ...]
    num_tokens: int  # of all users

    @property
    def seconds(self) -> float:
        """Return how long it took until the last user had everything."""
        return max(self.last_seconds)

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens of all users over the seconds of all."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True)
class Series:
    """The runs of one number of users with one way of running an engine."""

    engine: str
    precision: str
    drawing: str
    num_users: int
    num_threads: int
    load_seconds: float
    runs: tuple[Run, ...]


class PeerError(Exception):
    """The peer cannot be measured here; the message is one line for the table."""


@dataclass(frozen=True)
class Answer:
    """Everything one peer measured of one model."""

    version: str
    notes: tuple[str, ...]
    series: tuple[Series, ...]


def repeated(run_once: Callable[[], Run]) -> tuple[Run, ...]:
    """Run until MEASURE_SECONDS have been measured, at most MAX_RUNS times."""
    runs: list[Run] = []
    while len(runs) < MAX_RUNS and sum(run.seconds for run in runs) < MEASURE_SECONDS:
        runs.append(run_once())
    return tuple(runs)


def median_run(runs: Sequence[Run]) -> Run:
    """Return the run of median speed, the slower of two."""
    return sorted(runs, key=lambda run: run.tokens_per_second)[(len(runs) - 1) // 2]


def serve(measure: Callable[[Job], Answer]) -> int:
    """Read a job, measure it, print the answer; whatever a library prints goes to stderr."""
    job = from_json(Job, json.load(sys.stdin))
    try:
        with _stdout_is_stderr():
            answer = measure(job)
    except PeerError as failure:
        print(failure, file=sys.stderr)
        return FAILED
    print(json.dumps(to_json(answer)))
    return 0


def read_answer(text: str) -> Answer:
    """Return what `serve` printed."""
    values: dict[str, Any] = json.loads(text)
    return from_json(Answer, values)


@contextlib.contextmanager
def _stdout_is_stderr() -> Iterator[None]:
    """Send what is written to file descriptor 1, by native libraries too, to 2 for a while."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
