"""The verbs that ask something of a run: stop, save, sample, delete, queue.

Standard library only.
"""

import argparse
from collections.abc import Callable

from stentor.errors import OptionError
from stentor.jobs import check_allowed, check_going, terminate
from stentor.run_deletion import check_deletable, delete_run
from stentor.run_queue import move, queued_runs, remove, start_next
from stentor.run_wishes import ask_to_sample, ask_to_save, ask_to_stop
from stentor.runs import Run, current_status, list_checkpoints, open_run
from training.follow import describe_line, status_to_json
from training.model_verbs import Verbs
from training.run_verbs import print_json

RUN_HELP = "as python -m training list names it"


def add_control_verbs(verbs: Verbs, json_flag: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    verb = verbs.add_parser("stop", help="save a checkpoint and end")
    verb.add_argument("run_id", help=RUN_HELP)
    verb.add_argument(
        "--now", action="store_true", help="end the process, saved or not, after a moment"
    )
    verb.set_defaults(verb=_stop)

    verb = verbs.add_parser("save", help="save a checkpoint and go on")
    verb.add_argument("run_id", help=RUN_HELP)
    verb.set_defaults(verb=_wish(ask_to_save, "Asked to save after the current step."))

    verb = verbs.add_parser("sample", help="continue the sample prompts and go on")
    verb.add_argument("run_id", help=RUN_HELP)
    verb.set_defaults(verb=_wish(ask_to_sample, "Asked for samples after the current step."))

    verb = verbs.add_parser("delete", help="delete a run with all its checkpoints")
    verb.add_argument("run_id", help=RUN_HELP)
    verb.add_argument("--yes", action="store_true", help="do not ask")
    verb.set_defaults(verb=_delete)

    verb = verbs.add_parser(
        "queue",
        parents=[json_flag],
        help="runs in line, and their order",
        description="List the runs in line. To put one there: run RECIPE --queue, resume RUN "
        "--queue. The first one starts by itself when a run ends, or while the playground is open.",
    )
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--start", action="store_true", help="start those whose devices are free")
    what.add_argument(
        "--move",
        nargs=2,
        metavar=("RUN", "N"),
        help="move a run by N places: -1 is one earlier, 1 one later",
    )
    what.add_argument("--remove", metavar="RUN", help="take a run out of the line")
    verb.set_defaults(verb=_queue)


def _stop(parsed: argparse.Namespace) -> int:
    run = open_run(parsed.run_id)
    check_going(run)
    if parsed.now:
        is_gone = terminate(run)
        print("Ended." if is_gone else "The process does not end; look for it by hand.")
        if is_gone:
            _start_next()
        return 0 if is_gone else 1
    ask_to_stop(run)
    print("Asked to save and stop after the current step.")
    return 0


def _wish(ask: Callable[[Run], None], news: str) -> Callable[[argparse.Namespace], int]:
    """Return a verb that asks a run that is going for something."""

    def verb(parsed: argparse.Namespace) -> int:
        run = open_run(parsed.run_id)
        check_going(run)
        ask(run)
        print(news)
        return 0

    return verb


def _delete(parsed: argparse.Namespace) -> int:
    run = open_run(parsed.run_id)
    check_deletable(run)  # before anyone is asked
    if not parsed.yes and not _is_sure(run):
        print("Nothing was deleted.")
        return 1
    delete_run(run)
    print(f"Deleted {run.id}.")
    return 0


def _is_sure(run: Run) -> bool:
    count = len(list_checkpoints(run))
    state = current_status(run).state
    kept = "1 checkpoint" if count == 1 else f"{count} checkpoints"
    try:
        answer = input(f"Delete {run.id} ({state}, {kept}) for good? [y/N] ")
    except EOFError:  # nobody can answer
        print()
        return False
    return answer.strip().lower() in ("y", "yes")


def _queue(parsed: argparse.Namespace) -> int:
    if parsed.start:
        check_allowed()
        _start_next()
    elif parsed.move:
        move(open_run(parsed.move[0]), _places(parsed.move[1]))
    elif parsed.remove:
        remove(open_run(parsed.remove))
    line = queued_runs()
    if parsed.json:
        print_json([status_to_json(run) for run in line])
        return 0
    for run in line:
        print(describe_line(run))
    if not line:
        print("No run is in line. To put one there: python -m training run RECIPE --queue")
    return 0


def _places(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise OptionError(f"--move RUN N: N must be a whole number; got {text!r:.40}.") from error


def _start_next() -> None:
    for run in start_next():
        print(f"Started the next run in line: {run.id}")
