"""How long a start takes: from a fresh process to the first token of every model.

Each start is a process of its own. They are measured with the kernels that an earlier start
compiled, and with none, as on the first start of a version; both with files in the memory of the
system. A page takes longer: Gradio is not part of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stentor.bench.measure import Plan
from stentor.bench.report import short_name
from stentor.bench.start_child import StartAnswer, StartJob
from stentor.bench.subjects import Subject, make_prompts
from stentor.errors import INTERRUPTED, ModelError
from stentor.knobs import from_json, to_json

# Whether an earlier start compiled the kernels, or this one does.
KERNELS = KEPT, COMPILED = "kept", "compiled"
TIMEOUT_SECONDS = 600
PROJECT = Path(__file__).resolve().parent.parent.parent
CHILD = PROJECT / "stentor" / "bench" / "start_child.py"
GAP = 3  # spaces between two columns


@dataclass(frozen=True)
class Start:
    """The start of median length among `num_runs`; `kernels` is KEPT or COMPILED."""

    models: tuple[str, ...]
    kernels: str
    num_threads: int
    precision: str
    num_prompt_tokens: int
    num_runs: int
    python_seconds: float  # Python and its imports
    load_seconds: tuple[float, ...]  # of each model, one after the other
    first_seconds: tuple[float, ...]  # of each model, all at once
    seconds: float  # from the start of the process to the last first token
    all_seconds: tuple[float, ...]  # of every run, as they were measured


def measure_starts(
    subjects: Sequence[Subject],
    plan: Plan,
    num_runs: int,
    folder: Path,
    kinds: Sequence[str] = KERNELS,
) -> Iterator[Start]:
    """Yield the median start of each kind, measured `num_runs` times.

    What a start compiles is kept below `folder`, and deleted after it.

    Raises:
        ModelError: a start failed.
    """
    start_once(subjects, plan, KEPT, folder)  # it compiles what no earlier start has compiled
    for kernels in kinds:
        answers = [start_once(subjects, plan, kernels, folder) for _ in range(num_runs)]
        yield make_start(answers, subjects, plan, kernels)


def make_start(
    answers: Sequence[StartAnswer], subjects: Sequence[Subject], plan: Plan, kernels: str
) -> Start:
    """Return the figures of the start of median length, of two the faster one."""
    median = sorted(answers, key=lambda answer: answer.seconds)[(len(answers) - 1) // 2]
    return Start(
        models=tuple(short_name(subject.name) for subject in subjects),
        kernels=kernels,
        num_threads=plan.num_threads,
        precision=plan.precision,
        num_prompt_tokens=plan.num_prompt_tokens,
        num_runs=len(answers),
        python_seconds=round(median.python_seconds, 3),
        load_seconds=_rounded(median.load_seconds),
        first_seconds=_rounded(median.first_seconds),
        seconds=round(median.seconds, 3),
        all_seconds=_rounded([answer.seconds for answer in answers]),
    )


def start_once(subjects: Sequence[Subject], plan: Plan, kernels: str, folder: Path) -> StartAnswer:
    """Return the seconds of one start in a process of its own.

    Raises:
        ModelError: it failed, or took ten minutes.
    """
    checkpoints = [subject.checkpoint for subject in subjects]
    prompts = tuple(make_prompts(one, 1, plan.num_prompt_tokens)[0] for one in checkpoints)
    with TemporaryDirectory(dir=folder) as cache:
        job = StartJob(
            began=time.perf_counter(),
            folders=tuple(str(checkpoint.folder.resolve()) for checkpoint in checkpoints),
            prompts=prompts,
            precision=plan.precision,
            num_threads=plan.num_threads,
        )
        return _answer(job, environment_of(kernels, cache))


def environment_of(kernels: str, cache: str) -> dict[str, str]:
    """Return a child's environment; what COMPILED compiles is kept in the empty folder `cache`."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    if kernels == COMPILED:
        environment["XDG_CACHE_HOME"] = cache  # see stentor.home.kernels_folder
    return environment


def _answer(job: StartJob, environment: dict[str, str]) -> StartAnswer:
    try:
        finished = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(to_json(job)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"A start gave no token within {TIMEOUT_SECONDS} seconds.") from error
    if finished.returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if finished.returncode != 0:
        said = finished.stderr.strip().splitlines() or ["it said nothing"]
        raise ModelError(f"A start failed with exit code {finished.returncode}: {said[-1][:300]}")
    return from_json(StartAnswer, json.loads(finished.stdout))


def start_heading(models: Sequence[str]) -> str:
    """Return the first line of the table; every column but the first is of seconds."""
    return _row("kernels", _columns(models), _columns(models))


def start_line(start: Start) -> str:
    """Return one line of the table."""
    figures = [start.python_seconds, *start.load_seconds, *start.first_seconds, start.seconds]
    return _row(start.kernels, [f"{figure:.3f}" for figure in figures], _columns(start.models))


def _columns(models: Sequence[str]) -> list[str]:
    parts = [f"{part} {model}" for part in ("load", "first") for model in models]
    return ["python", *parts, "in all"]


def _row(first: str, values: Sequence[str], columns: Sequence[str]) -> str:
    """Return a line whose values stand below the names of their columns."""
    cells = (f"{value:>{len(column) + GAP}}" for value, column in zip(values, columns, strict=True))
    return f"{first:<8}" + "".join(cells)


def _rounded(seconds: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(each, 3) for each in seconds)
