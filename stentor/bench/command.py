"""The command `bench`: flags, the order in which things are measured, the table, the JSON line.

    python -m stentor.bench --compare --peers-python peers/bin/python

Every figure is measured in this run. Without --model and --shapes: the embedded pair and both real
shapes. A run of a second or less is repeated and the median is shown. With --only start a process
is started for each figure, and nothing else is measured; without --model that is the embedded pair.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stentor.bench.measure import Bench, Plan
from stentor.bench.report import heading, ratio_lines, ratios, share_line, short_name
from stentor.bench.start import measure_starts, start_heading, start_line
from stentor.bench.subjects import Subject, open_subjects
from stentor.engine.precision import resolve
from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.knobs import add_arguments, check, from_arguments, knob, to_json
from stentor.models import PAIRS
from stentor.provenance import machine, num_cores, versions
from stentor.store import EngineOptions

# More than this at once would only measure the waiting room.
MAX_USERS = 256
USERS = (1, 2, 4, 8, 16, 30)
PEERS_PYTHON = "STENTOR_PEERS_PYTHON"
CONTEXTS = (32, 128, 512)
# Half of a context is generated, so that a speed after the first token can be told.
MIN_CONTEXT = 4
# What --only can name.
START = "start"


@dataclass(frozen=True)
class BenchOptions:
    """How much everybody reads and generates."""

    tokens: int = knob(80, low=1, high=512, step=1, help="New tokens per user")
    prompt_tokens: int = knob(12, low=1, high=512, step=1, help="Tokens of each user's prompt")
    starts: int = knob(5, low=1, high=99, step=1, help="How often --only start measures each start")


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `bench` to a parser."""
    demo = PAIRS["demo"]
    parser.add_argument(
        "--model",
        action="append",
        help="a name, run:<id>/<checkpoint> or a folder; may be given several times "
        f"(default {demo.left} and {demo.right}, unless --shapes is given alone)",
    )
    parser.add_argument(
        "--shapes",
        action="store_true",
        help="measure the shapes of Stentor-30M and Stentor-Big with random weights "
        "(default, unless --model is given alone)",
    )
    parser.add_argument(
        "--only",
        choices=(START,),
        help=f"{START}: how long it takes from a fresh process to a first token of each model, "
        "with kernels compiled before and with none",
    )
    parser.add_argument(
        "--users",
        type=int,
        nargs="+",
        default=list(USERS),
        help="how many generate at the same time (default 1 2 4 8 16 30)",
    )
    parser.add_argument(
        "--context",
        type=int,
        nargs="*",
        default=list(CONTEXTS),
        help="how deep into a context one user's speed is measured (default 32 128 512)",
    )
    add_arguments(parser, BenchOptions)
    add_arguments(parser, EngineOptions)
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also measure transformers' generate, llama.cpp and OpenVINO GenAI",
    )
    parser.add_argument(
        "--peers-python",
        metavar="PATH",
        default=os.environ.get(PEERS_PYTHON, sys.executable),
        help="the Python that has llama-cpp-python and openvino-genai (default: "
        f"{PEERS_PYTHON}, else this one)",
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Measure, and print the table and the JSON line.

    Raises:
        StentorError: an option is wrong, or a model cannot be measured.
    """
    plan = _read_plan(arguments)
    is_default = not arguments.model and not arguments.shapes
    demo = PAIRS["demo"]
    references = [demo.left, demo.right] if is_default else arguments.model or []
    references = list(dict.fromkeys(references))  # twice the same would be two lines of one name
    with_shapes = arguments.shapes or (is_default and arguments.only != START)
    with TemporaryDirectory(prefix="stentor-bench-") as name:
        folder = Path(name)
        subjects = open_subjects(references, with_shapes, folder)
        for subject in subjects:
            _check_context(plan, subject.checkpoint.shape.context_length, subject.name)
        _say(_machine_line(plan))
        if arguments.only == START:
            num_starts = from_arguments(BenchOptions, arguments).starts
            report = _measure_starts(plan, subjects, num_starts, folder)
        else:
            report = _measure_speed(plan, subjects, folder)
    print(json.dumps(report))
    return 0


def _measure_starts(
    plan: Plan, subjects: Sequence[Subject], num_starts: int, folder: Path
) -> dict[str, Any]:
    """Print a line for each kind of start; return what the JSON says of them."""
    _say(start_heading([short_name(subject.name) for subject in subjects]))
    starts = []
    for start in measure_starts(subjects, plan, num_starts, folder):
        _say(start_line(start))
        starts.append(to_json(start))
    return {"machine": machine(), "versions": versions(), "starts": starts}


def _measure_speed(plan: Plan, subjects: Sequence[Subject], folder: Path) -> dict[str, Any]:
    """Print the table line by line; return what the JSON says of it."""
    bench = Bench(plan, folder, _say)
    bench.measure_limits()
    _say(heading())
    for subject in subjects:
        bench.measure_alone(subject)
    for pair in zip(subjects[::2], subjects[1::2], strict=False):
        bench.measure_both(pair)
    if plan.is_compared:
        bench.measure_peers(subjects)
    compared = ratios(bench.measurements)
    for line in (*ratio_lines(compared), *map(share_line, bench.shares)):
        _say(line)
    return {
        "plan": to_json(plan),
        "machine": machine(),
        "versions": {**versions(), **bench.versions},
        "limits": to_json(bench.limits),
        "models": [to_json(model) for model in bench.models],
        "measurements": [to_json(line) for line in bench.measurements],
        "ratios": [to_json(ratio) for ratio in compared],
        "shares": [to_json(share) for share in bench.shares],
        "notes": bench.notes,
    }


def _read_plan(arguments: argparse.Namespace) -> Plan:
    """Return the checked options.

    Raises:
        OptionError: names every option that is wrong.
    """
    options = from_arguments(BenchOptions, arguments)
    engine = from_arguments(EngineOptions, arguments)
    users, contexts = sorted(set(arguments.users)), sorted(set(arguments.context))
    if not 1 <= users[0] <= users[-1] <= MAX_USERS:
        raise OptionError(f"Users must be from 1 to {MAX_USERS}; got {arguments.users}.")
    if contexts and contexts[0] < MIN_CONTEXT:
        raise OptionError(f"Contexts must be at least {MIN_CONTEXT}; got {arguments.context}.")
    python = shutil.which(arguments.peers_python)
    if python is None:
        raise OptionError(
            f"--peers-python {arguments.peers_python} is no program. Give the Python of an "
            "environment, such as peers/bin/python."
        )
    return Plan(
        users=tuple(users),
        contexts=tuple(contexts),
        num_prompt_tokens=options.prompt_tokens,
        settings=check(SamplingSettings(max_new_tokens=options.tokens)),
        precision=resolve(engine.precision),
        num_threads=engine.threads or num_cores(),
        is_compared=arguments.compare,
        peers_python=python,
    )


def _check_context(plan: Plan, context_length: int, name: str) -> None:
    """Refuse before minutes of measuring what would be refused after them."""
    wanted = plan.num_prompt_tokens + plan.settings.max_new_tokens
    if wanted > context_length:
        raise OptionError(
            f"{name} has a context of {context_length:,} tokens; {wanted:,} were asked for. "
            "Lower --tokens or --prompt-tokens."
        )


def _machine_line(plan: Plan) -> str:
    found = machine()
    memory = int(found["memory_bytes"]) / 1e9
    return (
        f"{found['processor']}, {found['cores']} cores, {memory:.1f} GB, {found['system']}; "
        f"{plan.num_threads} threads in use"
    )


def _say(line: str) -> None:
    print(line, flush=True)
