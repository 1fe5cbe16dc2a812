"""The verb `bench`: its flags and what they mean. Imports nothing heavy before it measures.

python -m training bench
python -m training bench --only speed,memory,data,flat --shapes stentor-big
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from stentor.errors import INTERRUPTED, OptionError
from stentor.knobs import add_arguments, choose, from_arguments
from stentor.provenance import num_cores
from training.bench.plan import (
    DATA,
    PARTS,
    SHAPES,
    SPEED,
    STENTOR_30M,
    STENTOR_BIG,
    BenchOptions,
    Plan,
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `bench` to a parser."""
    parser.add_argument(
        "--only",
        default=SPEED,
        metavar="PARTS",
        help=f"what is measured, joined by commas: {', '.join(PARTS)} (default {SPEED})",
    )
    parser.add_argument(
        "--shapes",
        nargs="*",
        default=None,
        metavar="NAME",
        help=f"models to train: {', '.join(SHAPES)}; given alone: the two real shapes, with random "
        "weights (default: the embedded big model on a processor, stentor-big on a GPU)",
    )
    parser.add_argument(
        "--text",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"text for the part {DATA}, .txt, .jsonl or .parquet (default: generated text)",
    )
    add_arguments(parser, BenchOptions)


def run(parsed: argparse.Namespace) -> int:
    """Measure, and print the report; return the exit code.

    Raises:
        OptionError: an option is wrong.
    """
    plan = read_plan(parsed)
    module: Any = importlib.import_module("training.bench.measure")
    try:
        return int(module.run_plan(plan))
    except KeyboardInterrupt:
        print("Interrupted: what is above was measured, the rest was not.", file=sys.stderr)
        return INTERRUPTED


def read_plan(parsed: argparse.Namespace) -> Plan:
    """Return the checked options.

    Raises:
        OptionError: names what is wrong and what exists.
    """
    options = from_arguments(BenchOptions, parsed)
    parts = [name.strip() for name in parsed.only.split(",") if name.strip()]
    parts_by_name = dict.fromkeys(PARTS, True)
    shapes_by_name = dict.fromkeys(SHAPES, True)
    for name in parts:
        choose(parts_by_name, name, "part of the bench")
    if not parts:
        raise OptionError(f"--only needs a part; there is: {', '.join(PARTS)}.")
    shapes = parsed.shapes or []
    if parsed.shapes == []:
        shapes = [STENTOR_30M, STENTOR_BIG]
    for name in shapes:
        choose(shapes_by_name, name, "model to train")
    lost = [path for path in parsed.text if not Path(path).exists()]
    if lost:
        raise OptionError(f"--text: {', '.join(lost)} does not exist. Check the path.")
    _check_sizes(options)
    return Plan(
        options=options,
        parts=tuple(dict.fromkeys(parts)),
        shapes=tuple(dict.fromkeys(shapes)),
        num_threads=options.threads or num_cores(),
        text=tuple(str(Path(path).resolve()) for path in parsed.text),
    )


def _check_sizes(options: BenchOptions) -> None:
    """Refuse a batch that the Trainer cannot take in equal micro batches."""
    batch_size, micro_batch_size = options.batch_size, options.micro_batch_size
    if micro_batch_size and (batch_size or micro_batch_size) % micro_batch_size:
        raise OptionError(
            f"Batch size {batch_size} must be a multiple of micro batch size {micro_batch_size}: "
            "transformers.Trainer knows only equal ones."
        )
