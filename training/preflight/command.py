"""The verbs `check` and `rehearse`. Imports nothing heavy before one of them is run.

python -m training check practice
python -m training rehearse my-recipe.json --json
"""

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stentor.errors import StentorError
from stentor.run_devices import for_devices
from stentor.runs import write_json
from training.preflight.report import RECIPE, Report, problem_of, report_to_json
from training.preflight.show import describe_report
from training.recipe import Recipe, without_skipped
from training.recipe_flags import add_recipe_flags, chosen_recipe

Say = Callable[[str], None]
DEFAULT_STEPS, DEFAULT_MINUTES = 20, 10.0


def add_check_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `run_check` reads."""
    parser.add_argument("name", help="a recipe, or a file of one whose name ends in .json")
    parser.add_argument("--json", action="store_true", help="print JSON for a machine")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the JSON here as well")
    add_recipe_flags(parser)


def add_rehearse_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `run_rehearsal` reads."""
    add_check_flags(parser)
    parser.add_argument(
        "--steps",
        type=_at_least(int, 5),
        default=DEFAULT_STEPS,
        help=f"optimizer steps of each stage that is measured (default {DEFAULT_STEPS})",
    )
    parser.add_argument(
        "--minutes",
        type=_at_least(float, 0.1),
        default=DEFAULT_MINUTES,
        help=f"stop measuring after so long (default {DEFAULT_MINUTES:g})",
    )


def run_check(parsed: argparse.Namespace) -> int:
    """Look for everything that is wrong with a run; return 0, or 2 where it cannot end well."""

    def check(recipe: Recipe, say: Say) -> Report:
        report: Report = _part("checks").preflight(recipe, say).report
        return report

    return _run(parsed, check)


def run_rehearsal(parsed: argparse.Namespace) -> int:
    """Check, and if nothing forbids it train a few steps and measure; return 0 or 2."""

    def rehearse(recipe: Recipe, say: Say) -> Report:
        preflight = _part("checks").preflight(recipe, say)
        rehearsed: Report = _part("rehearsal").rehearse(
            recipe, preflight, say, num_steps=parsed.steps, seconds=60 * parsed.minutes
        )
        return rehearsed

    return _run(parsed, rehearse)


def _run(parsed: argparse.Namespace, make_report: Callable[[Recipe, Say], Report]) -> int:
    stream = sys.stderr if parsed.json else sys.stdout

    def say(message: str) -> None:
        print(message, file=stream, flush=True)

    try:
        recipe = without_skipped(chosen_recipe(parsed))
    except StentorError as error:
        report = Report((problem_of(error, RECIPE),))
    else:
        if recipe.devices:  # before torch is imported; this process is theirs alone
            os.environ.update(for_devices(os.environ, recipe.devices))
        report = make_report(recipe, say)
    if parsed.report:
        write_json(parsed.report, report_to_json(report))
    if parsed.json:
        print(json.dumps(report_to_json(report), indent=2))
    else:
        print(describe_report(report))
    return 2 if report.has_errors else 0


def _at_least(kind: type, low: float) -> Callable[[str], Any]:
    """Return what reads a number of a flag and refuses one that is too small."""

    def read(text: str) -> Any:  # noqa: ANN401 - int or float
        value = kind(text)
        if not value >= low:
            raise argparse.ArgumentTypeError(f"must be at least {low:g}; got {text}")
        return value

    return read


def _part(name: str) -> Any:  # noqa: ANN401 - a module that needs torch
    return importlib.import_module(f"training.preflight.{name}")
