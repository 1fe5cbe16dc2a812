"""The verbs that make, start and follow runs: list, show, run, new, resume, status.

What is asked of a run that exists already is in control_verbs.py. Standard library only.
"""

import argparse
import json
from pathlib import Path

from stentor.errors import OptionError
from stentor.jobs import (
    check_allowed,
    check_can_start,
    check_startable,
    start,
    start_lock,
)
from stentor.run_queue import QUEUED, enqueue, start_next
from stentor.runs import (
    Run,
    create_run,
    current_status,
    list_runs,
    open_run,
    read_recipe,
    write_json,
)
from training.execution import execute_here
from training.follow import describe_line, describe_status, follow, status_to_json
from training.model_verbs import Verbs
from training.recipe import (
    Recipe,
    check_text,
    recipe_from_json,
    recipe_to_json,
    with_options,
    without_skipped,
)
from training.recipe_flags import add_recipe_flags, chosen_recipe, refuse_changes
from training.recipes import RECIPES, find_recipe
from training.show import describe_recipe


def add_run_verbs(verbs: Verbs, json_flag: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    verb = verbs.add_parser("list", parents=[json_flag], help="recipes and runs")
    verb.set_defaults(verb=_list)

    verb = verbs.add_parser("show", parents=[json_flag], help="one recipe or run, whole")
    verb.add_argument("name", help="a recipe, a recipe file that ends in .json, or a run id")
    add_recipe_flags(verb)
    verb.set_defaults(verb=_show)

    verb = verbs.add_parser("run", help="start a recipe and follow it")
    verb.add_argument(
        "name", help="a recipe, a recipe file, or a run folder to be run by this very process"
    )
    add_recipe_flags(verb)
    _add_start_flags(verb)
    verb.set_defaults(verb=_run)

    verb = verbs.add_parser("new", help="make a run folder and start nothing")
    verb.add_argument("name", help="a recipe, or a recipe file that ends in .json")
    add_recipe_flags(verb)
    verb.set_defaults(verb=_new)

    verb = verbs.add_parser("resume", help="go on with a stopped or dead run")
    verb.add_argument("name", help="a run id, or a run folder to be run by this very process")
    verb.add_argument(
        "--processes",
        type=int,
        help="how many train together from now on, written into the run's recipe",
    )
    verb.add_argument("--devices", help="GPUs to train on from now on, such as 0 or 0,1")
    _add_start_flags(verb)
    verb.set_defaults(verb=_resume)

    verb = verbs.add_parser("status", parents=[json_flag], help="how a run is doing")
    verb.add_argument("run_id", nargs="?", help="default: the newest run")
    verb.set_defaults(verb=_status)


def _add_start_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--detach", action="store_true", help="start and return at once")
    parser.add_argument(
        "--queue",
        action="store_true",
        help="return at once; where another run uses the devices, start by itself when it ends",
    )


def _list(parsed: argparse.Namespace) -> int:
    recipes = [find_recipe(name) for name in RECIPES]
    runs = list_runs()
    if parsed.json:
        names = [{"name": recipe.name, "title": recipe.title} for recipe in recipes]
        print_json({"recipes": names, "runs": [status_to_json(run) for run in runs]})
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
        print_json(recipe_to_json(recipe))
    else:
        print(describe_recipe(recipe))
        print(f"\nEvery option by name, for --set: python -m training show {parsed.name} --json")
    return 0


def _is_run(name: str) -> bool:
    return any(run.id == name for run in list_runs())


def _run(parsed: argparse.Namespace) -> int:
    if parsed.name not in RECIPES and Path(parsed.name).is_dir():
        refuse_changes(parsed)
        _refuse_line(parsed)
        return execute_here(Path(parsed.name))
    recipe = _recipe_of_a_run(parsed)
    if parsed.queue:
        check_allowed()
    else:
        check_can_start(recipe.devices)  # before a folder is made that would never run
    return _set_off(create_run(recipe_to_json(recipe), recipe.name), parsed)


def _recipe_of_a_run(parsed: argparse.Namespace) -> Recipe:
    recipe = without_skipped(chosen_recipe(parsed))
    check_text(recipe)
    return recipe


def _new(parsed: argparse.Namespace) -> int:
    """Print the folder only, so that a script can hand it to every machine of a cluster."""
    recipe = _recipe_of_a_run(parsed)
    print(create_run(recipe_to_json(recipe), recipe.name).folder)
    return 0


def _resume(parsed: argparse.Namespace) -> int:
    if Path(parsed.name).is_dir():
        _refuse_line(parsed)
        if parsed.processes is not None or parsed.devices is not None:
            raise OptionError("--processes and --devices change a run: name it by its id.")
        return execute_here(Path(parsed.name))
    run = open_run(parsed.name)
    check_startable(run)
    _settle(run, parsed)
    return _set_off(run, parsed)


def _refuse_line(parsed: argparse.Namespace) -> None:
    if parsed.queue or parsed.detach:
        raise OptionError(
            f"{parsed.name!r:.80} is a folder, run by this very process: it can neither wait in "
            "line nor be detached. Give the run's id instead."
        )


def _settle(run: Run, parsed: argparse.Namespace) -> None:
    """Write what the run is to use from now on into its recipe: a later resume keeps it."""
    flags = {"num_processes": parsed.processes, "devices": parsed.devices}
    given = {name: value for name, value in flags.items() if value is not None}
    if given:
        recipe = with_options(recipe_from_json(read_recipe(run)), **given)
        with start_lock():
            write_json(run.recipe_file, recipe_to_json(recipe))


def _set_off(run: Run, parsed: argparse.Namespace) -> int:
    """Start a run, or put it in line, and follow it unless told not to."""
    if parsed.queue:
        if current_status(run).state != QUEUED:
            enqueue(run)
        is_started = run in start_next()
        print(f"Run {run.id} in {run.folder}")
        print("Started: its devices are free." if is_started else describe_line(run))
        return 0
    offset = run.log_file.stat().st_size if run.log_file.exists() else 0
    start(run)
    print(f"Run {run.id} in {run.folder}", flush=True)
    return 0 if parsed.detach else follow(run, offset)


def _status(parsed: argparse.Namespace) -> int:
    runs = [open_run(parsed.run_id)] if parsed.run_id else list_runs()[:1]
    if not runs:
        raise OptionError("There is no run yet; start one with: python -m training run practice")
    if parsed.json:
        print_json(status_to_json(runs[0]))
        return 0
    for line in describe_status(runs[0]):
        print(line)
    return 0


def print_json(value: object) -> None:
    """Print a value for a machine."""
    print(json.dumps(value, indent=2))
