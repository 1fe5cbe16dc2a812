"""`python -m stentor eval`: what the Prompts tab does, with the same runner, in a terminal.

    evaluation_store.py   settings, records and the folder on disk
    evaluation_work.py    one evaluation at work
    evaluation_runner.py  start, stop, limits
    exports.py            JSON and CSV

Knows no Gradio.
"""

import argparse
import sys
from pathlib import Path

from stentor.commands import SESSION, fetch_if_missing
from stentor.errors import INTERRUPTED, OptionError
from stentor.evaluation_runner import EvaluationRunner
from stentor.evaluation_store import (
    Evaluation,
    EvaluationSettings,
    Result,
    check_settings,
    open_evaluation,
    read_results,
    summarise,
)
from stentor.exports import check_export_path, export_json, write_export
from stentor.knobs import add_arguments, from_arguments, knobs
from stentor.models import PAIRS
from stentor.prompts import ALL, categories
from stentor.store import EngineOptions, open_store

WAIT_SECONDS = 0.2


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `eval` to a parser."""
    defaults, options = EvaluationSettings(), knobs(EvaluationSettings)
    demo = PAIRS["demo"]
    parser.add_argument(
        "--category", default=ALL, help=f"{', '.join(categories())} or {ALL} (default {ALL})"
    )
    parser.add_argument(
        "--model",
        action="append",
        help=f"give it twice; a name, run:<id>/<checkpoint> or a folder "
        f"(default {demo.left} and {demo.right})",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=defaults.seed,
        help=f"{options['seed'].help} (default {defaults.seed})",
    )
    parser.add_argument("--temperature", type=float, help=options["temperature"].help)
    parser.add_argument("--max-new-tokens", type=int, help=options["max_new_tokens"].help)
    add_arguments(parser, EngineOptions)
    parser.add_argument("--json", action="store_true", help="print provenance and results as JSON")
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="also write a .json or a .csv file"
    )


def run_eval(arguments: argparse.Namespace) -> int:
    """Run an evaluation and print it; Ctrl-C keeps and prints what is finished.

    Returns the exit code: 0 finished, 1 failed, 130 stopped.

    Raises:
        StentorError: an option is wrong; nothing was started.
    """
    settings = check_settings(settings_from(arguments))
    options = from_arguments(EngineOptions, arguments)
    if arguments.export:
        check_export_path(arguments.export)
    for reference in settings.models:
        fetch_if_missing(reference)
    with open_store(options) as store:
        runner = EvaluationRunner(store)
        evaluation_id = runner.start(settings, SESSION)
        try:
            _follow(runner, evaluation_id)
        except KeyboardInterrupt:
            print("Stopping; what is finished is kept.", file=sys.stderr)
        finally:
            runner.close()
    evaluation = open_evaluation(evaluation_id)
    results = read_results(evaluation)
    if arguments.export:
        write_export(evaluation, arguments.export)
    print(export_json(evaluation, results) if arguments.json else _report(evaluation, results))
    return {"finished": 0, "stopped": INTERRUPTED}.get(evaluation.state, 1)


def settings_from(arguments: argparse.Namespace) -> EvaluationSettings:
    """Return the settings that the flags mean.

    Raises:
        OptionError: not two models.
    """
    demo = PAIRS["demo"]
    models = arguments.model or [demo.left, demo.right]
    if len(models) != 2:
        raise OptionError(f"Give --model twice, once for each side; got {len(models)}.")
    return EvaluationSettings(
        category=arguments.category,
        models=(models[0], models[1]),
        seed=arguments.seed,
        temperature=arguments.temperature,
        max_new_tokens=arguments.max_new_tokens,
    )


def _follow(runner: EvaluationRunner, evaluation_id: str) -> None:
    """Print one line per result as it comes, on the error stream, until the end."""
    num_shown, has_ended = 0, False
    while not has_ended:
        has_ended = runner.wait(evaluation_id, WAIT_SECONDS)
        evaluation = open_evaluation(evaluation_id)
        results = read_results(evaluation)
        for place, result in enumerate(results[num_shown:], start=num_shown + 1):
            print(_progress_line(place, evaluation, result), file=sys.stderr, flush=True)
        num_shown = len(results)


def _progress_line(place: int, evaluation: Evaluation, result: Result) -> str:
    title = evaluation.models[result.side].title
    start = f"[{place}/{evaluation.total}] {result.prompt_id}  {title}: "
    if result.error:
        return start + result.error
    speed = f", {result.tokens_per_second:.0f} tok/s" if result.tokens_per_second else ""
    score = "no score" if result.score is None else f"score {result.score:.2f}"
    return f"{start}{result.num_tokens} tokens{speed}, {score}"


def _report(evaluation: Evaluation, results: list[Result]) -> str:
    """Return the table for people."""
    lines = [
        f"{evaluation.id}: {evaluation.state}, {len(results)} of {evaluation.total} results, "
        f"seed {evaluation.settings.seed}, prompts {evaluation.suite_hash}"
    ]
    if evaluation.error:
        lines.append(evaluation.error)
    for model in evaluation.models:
        lines.append(f"  {model.title}: {model.reference}, {model.revision}, {model.precision}")
    for summary in summarise(results):
        mean = "no score" if summary.mean is None else f"{summary.mean:.3f}"
        title = evaluation.models[summary.side].title
        lines.append(
            f"  {summary.category:<20} {title:<20} {mean:>8}  "
            f"({summary.num_scored} of {summary.num_results} scored)"
        )
    lines.append(f"Kept in {evaluation.folder}")
    return "\n".join(lines)
