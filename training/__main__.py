"""`python -m training`: runs and recipes, single checkpoints, and what can be measured.

Only the standard library is imported here; what needs torch is imported by the verb that needs it.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from stentor.errors import INTERRUPTED, OptionError, RunError, StentorError
from stentor.jobs import (
    ACTIVE_STATES,
    ask_to_stop,
    check_can_start,
    claim,
    start,
    terminate,
)
from stentor.knobs import add_arguments
from stentor.runs import (
    Run,
    create_run,
    current_status,
    list_runs,
    open_run,
    read_recipe,
)
from training.bench import command as bench
from training.follow import describe_status, follow, status_to_json
from training.growth_comparison import command as compare_growth
from training.recipe import check_text, recipe_from_json, recipe_to_json
from training.recipe_flags import add_recipe_flags, chosen_recipe, refuse_changes
from training.recipes import RECIPES, find_recipe
from training.settings import ExpandSettings
from training.show import describe_recipe

MODEL_HELP = "a known model, a folder, or run:ID/CHECKPOINT"


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    parsed = make_parser().parse_args(arguments)
    try:
        return int(parsed.verb(parsed))
    except StentorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; no verb is run and nothing heavy is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Grow and pre-train Stentor models."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    json_flag = argparse.ArgumentParser(add_help=False)
    json_flag.add_argument("--json", action="store_true", help="print JSON for a machine")

    verb = verbs.add_parser("list", parents=[json_flag], help="recipes and runs")
    verb.set_defaults(verb=_list)

    verb = verbs.add_parser("show", parents=[json_flag], help="one recipe or run, whole")
    verb.add_argument("name", help="a recipe or a run id")
    add_recipe_flags(verb)
    verb.set_defaults(verb=_show)

    verb = verbs.add_parser("run", help="start a recipe and follow it")
    verb.add_argument("name", help="a recipe, or a run folder to be run by this very process")
    add_recipe_flags(verb)
    _add_detach_flag(verb)
    verb.set_defaults(verb=_run)

    verb = verbs.add_parser("new", help="make a run folder and start nothing")
    verb.add_argument("name", help="a recipe")
    add_recipe_flags(verb)
    verb.set_defaults(verb=_new)

    verb = verbs.add_parser("resume", help="go on with a stopped or dead run")
    verb.add_argument("name", help="a run id, or a run folder to be run by this very process")
    _add_detach_flag(verb)
    verb.set_defaults(verb=_resume)

    verb = verbs.add_parser("stop", help="save a checkpoint and end")
    verb.add_argument("run_id", help="as python -m training list names it")
    verb.add_argument(
        "--now", action="store_true", help="end the process, saved or not, after a moment"
    )
    verb.set_defaults(verb=_stop)

    verb = verbs.add_parser("status", parents=[json_flag], help="how a run is doing")
    verb.add_argument("run_id", nargs="?", help="default: the newest run")
    verb.set_defaults(verb=_status)

    _add_model_verbs(verbs, json_flag)

    verb = verbs.add_parser("compare-growth", help="ways to grow, side by side on the same text")
    compare_growth.add_flags(verb)
    verb.set_defaults(verb=compare_growth.run)

    verb = verbs.add_parser("bench", help="how fast this machine trains, and beside what")
    bench.add_flags(verb)
    verb.set_defaults(verb=bench.run)
    return parser


def _add_model_verbs(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", json_flag: argparse.ArgumentParser
) -> None:
    """Add what is done to one checkpoint, outside a run."""
    verb = verbs.add_parser("expand", parents=[json_flag], help="grow one checkpoint")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("output", type=Path, help="a folder that does not exist yet")
    verb.add_argument("--seed", type=int, default=0, help="seed of the new weights (default 0)")
    add_arguments(verb, ExpandSettings)
    verb.set_defaults(verb=lambda parsed: _torch_verb("training.single").expand_model(parsed))

    verb = verbs.add_parser("export", help="copy a checkpoint without trainer state")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("output", type=Path, help="a folder that does not exist yet")
    verb.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    verb.set_defaults(verb=lambda parsed: _torch_verb("training.single").export_model(parsed))

    verb = verbs.add_parser("validate", parents=[json_flag], help="a model's loss on text files")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("files", nargs="+", metavar="FILE", help=".txt, .jsonl, .parquet or a folder")
    verb.add_argument(
        "--max-windows",
        type=int,
        default=64,
        help="most windows of 512 tokens to measure on (default 64)",
    )
    verb.set_defaults(verb=lambda parsed: _torch_verb("training.single").validate_model(parsed))


def _add_detach_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="start and return at once")


def _list(parsed: argparse.Namespace) -> int:
    recipes = [find_recipe(name) for name in RECIPES]
    runs = list_runs()
    if parsed.json:
        names = [{"name": recipe.name, "title": recipe.title} for recipe in recipes]
        _print_json({"recipes": names, "runs": [status_to_json(run) for run in runs]})
        return 0
    print("Recipes")
    width = max(map(len, RECIPES))
    for recipe in recipes:
        print(f"  {recipe.name:{width}} {recipe.title}: {recipe.purpose}")
    print("Runs" if runs else "Runs: none yet; start one with: python -m training run practice")
    for run in runs:
        status = current_status(run)
        place = f"{status.stage} step {status.step}" if status.stage else ""
        print(f"  {run.id:44} {status.state:9} {place}".rstrip())
    return 0


def _show(parsed: argparse.Namespace) -> int:
    if parsed.name in RECIPES or "/" in parsed.name or not _is_run(parsed.name):
        recipe = chosen_recipe(parsed)
    else:
        refuse_changes(parsed)
        recipe = recipe_from_json(read_recipe(open_run(parsed.name)))
    if parsed.json:
        _print_json(recipe_to_json(recipe))
    else:
        print(describe_recipe(recipe))
        print(f"\nEvery option by name, for --set: python -m training show {parsed.name} --json")
    return 0


def _is_run(name: str) -> bool:
    return any(run.id == name for run in list_runs())


def _run(parsed: argparse.Namespace) -> int:
    if parsed.name not in RECIPES and Path(parsed.name).is_dir():
        return _execute(Path(parsed.name))
    recipe = chosen_recipe(parsed)
    check_text(recipe)  # both before a folder is made that would never run
    check_can_start()
    run = create_run(recipe_to_json(recipe), recipe.name)
    return _start_and_follow(run, "run", parsed.detach)


def _new(parsed: argparse.Namespace) -> int:
    """Print the folder only, so that a script can hand it to every machine of a cluster."""
    recipe = chosen_recipe(parsed)
    check_text(recipe)
    print(create_run(recipe_to_json(recipe), recipe.name).folder)
    return 0


def _resume(parsed: argparse.Namespace) -> int:
    if Path(parsed.name).is_dir():
        return _execute(Path(parsed.name))
    run = open_run(parsed.name)
    if current_status(run).state == "finished":
        raise RunError(f"Run {run.id} is finished; there is nothing to resume.")
    return _start_and_follow(run, "resume", parsed.detach)


def _execute(folder: Path) -> int:
    run = Run(folder.resolve())
    if not run.recipe_file.is_file():
        raise OptionError(f"{folder} is no run folder (it has no recipe.json).")
    claim(run)  # importing torch takes seconds; readers should know this process before
    return int(_torch_verb("training.runner").execute(run))


def _start_and_follow(run: Run, verb: str, is_detached: bool) -> int:
    offset = run.log_file.stat().st_size if run.log_file.exists() else 0
    start(run, verb)
    print(f"Run {run.id} in {run.folder}", flush=True)
    return 0 if is_detached else follow(run, offset)


def _stop(parsed: argparse.Namespace) -> int:
    run = open_run(parsed.run_id)
    if current_status(run).state not in ACTIVE_STATES:
        raise RunError(f"Run {run.id} is not going.")
    if parsed.now:
        is_gone = terminate(run)
        print("Ended." if is_gone else "The process does not end; look for it by hand.")
        return 0 if is_gone else 1
    ask_to_stop(run)
    print("Asked to save and stop after the current step.")
    return 0


def _status(parsed: argparse.Namespace) -> int:
    runs = [open_run(parsed.run_id)] if parsed.run_id else list_runs()[:1]
    if not runs:
        raise OptionError("There is no run yet; start one with: python -m training run practice")
    if parsed.json:
        _print_json(status_to_json(runs[0]))
        return 0
    for line in describe_status(runs[0]):
        print(line)
    return 0


def _torch_verb(module: str) -> Any:  # noqa: ANN401 - a module
    """Import what needs torch only when a verb needs it; --help stays instant."""
    return importlib.import_module(module)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


if __name__ == "__main__":
    sys.exit(main())
