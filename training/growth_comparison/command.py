"""The verb `compare-growth`: its flags. What needs torch is imported when it runs.

python -m training compare-growth                              about five minutes
python -m training compare-growth --preset hour                all strategies, three seeds
python -m training compare-growth --output DIR                 goes on with an interrupted one
"""

import argparse
import importlib
import time
from pathlib import Path

from stentor.knobs import add_arguments, check, from_arguments, knobs
from training.growth_comparison.options import (
    CONTROLS,
    DEFAULT_STRATEGY,
    DEPTH_WORDS,
    WIDTH_WORDS,
    ComparisonOptions,
)

# Options whose flags are written out here: they take text, or several values.
PLAIN = ("model", "text", "strategies", "rate_factors")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `compare-growth` to its parser."""
    absent = argparse.SUPPRESS
    parser.add_argument(
        "--model",
        default=absent,
        help="the small model: a known one, a folder, or run:ID/CHECKPOINT (default demo-base)",
    )
    parser.add_argument(
        "--text",
        action="append",
        default=absent,
        metavar="FILE",
        help="train on this .txt, .jsonl or .parquet file or folder; may be given several times "
        "(default: text that the project makes itself)",
    )
    parser.add_argument(
        "--strategies",
        nargs="+",
        default=absent,
        metavar="NAME",
        help=f"{', '.join(CONTROLS)}, or WIDTH+DEPTH such as {DEFAULT_STRATEGY}; widths: "
        f"{', '.join(WIDTH_WORDS)}; depths: {', '.join(DEPTH_WORDS)}",
    )
    parser.add_argument(
        "--rate-factors",
        nargs="+",
        type=float,
        default=absent,
        metavar="SHARE",
        help="train each strategy at these shares of the learning rate",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        metavar="DIR",
        help="folder of the results; one that was begun before is gone on with",
    )
    add_arguments(parser, ComparisonOptions)


def run(parsed: argparse.Namespace) -> int:
    """Compare, and print the table and, as the last line, JSON.

    Raises:
        StentorError: an option is wrong, or the model or the text cannot be read.
    """
    started = time.monotonic()  # importing torch takes seconds, and they count
    options, given = read_options(parsed)
    comparison = importlib.import_module("training.growth_comparison.comparison")
    return int(comparison.compare(options, given, parsed.output, started))


def read_options(parsed: argparse.Namespace) -> tuple[ComparisonOptions, tuple[str, ...]]:
    """Return the checked options, and the names of those that were given."""
    from_knobs = vars(from_arguments(ComparisonOptions, parsed))
    plain = {name: getattr(parsed, name) for name in PLAIN if hasattr(parsed, name)}
    plain = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
    }
    if "text" in plain:
        plain["text"] = tuple(str(Path(path).resolve()) for path in plain["text"])
    options = check(ComparisonOptions(**{**from_knobs, **plain}))
    given = (*plain, *(name for name in knobs(ComparisonOptions) if hasattr(parsed, name)))
    return options, given
