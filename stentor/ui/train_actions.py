"""What the Training tab's buttons do: start a run, and whatever can be asked of one.

Every function that changes something asks first whether it may, because anyone who can reach the
server can call a handler without the page. Knows no Gradio.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from stentor import jobs, run_queue
from stentor.errors import OptionError
from stentor.knobs import choose
from stentor.run_deletion import delete_run
from stentor.run_wishes import ask_to_sample, ask_to_save, ask_to_stop
from stentor.runs import Run, create_run, open_run
from stentor.ui.train_allowed import must_be_allowed
from training.recipe import (
    Recipe,
    check_text,
    recipe_to_json,
    without_skipped,
)
from training.settings import PretrainSettings


def start_run(recipe: Recipe, refusal: str | None, queue: bool = False) -> Run:
    """Create a run folder without the skipped stages, and start it or put it in line.

    A queued run starts at once where its devices are free.

    Raises:
        RunError: not allowed here, or another run uses its devices and `queue` is not asked for.
        OptionError, DataError: what is left is no recipe, or a stage has no text.
    """
    must_be_allowed(refusal)
    recipe = without_skipped(recipe)
    check_text(recipe)  # both before a folder is made
    if not queue:
        jobs.check_can_start(recipe.devices)
    run = create_run(recipe_to_json(recipe), recipe.name)
    if queue:
        run_queue.enqueue(run)
        run_queue.start_next()
    else:
        jobs.start(run)
    return run


def control(question: Mapping[str, Any], refusal: str | None) -> dict[str, str]:
    """Do what a button asks of a run; return the news for the user.

    `question`: run (an id) and action (a name in ACTIONS).

    Raises:
        RunError: not allowed here, no such run, or its state does not let it.
        OptionError: no such action.
    """
    must_be_allowed(refusal)
    action = choose(ACTIONS, check_name(question.get("action"), "action"), "action")
    return {"news": action(open_run(check_name(question.get("run"), "run")))}


def _resume(run: Run) -> str:
    jobs.check_startable(run)
    verb = jobs.verb_for(run)
    jobs.start(run, verb)
    if verb == "run":
        return "Starting."
    return "Resuming. The last checkpoint is verified first; a damaged one is passed over."


def _stop(run: Run) -> str:
    jobs.check_going(run)
    if run.stop_file.exists():
        return "Already asked to stop. It ends after the present step; Stop now does not wait."
    ask_to_stop(run)
    return "Asked to stop. It saves a checkpoint after the present step."


def _stop_now(run: Run) -> str:
    jobs.check_going(run)
    if not jobs.terminate(run):
        return "The process does not end. Look at the log, or end it by hand."
    run_queue.start_next()
    return "Ended. Work since the last checkpoint will be repeated by Resume."


def _save(run: Run) -> str:
    jobs.check_going(run)
    ask_to_save(run)
    return "Asked to save. The checkpoint is written after the present step."


def _sample(run: Run) -> str:
    jobs.check_going(run)
    ask_to_sample(run)
    return "Asked for samples. They are generated after the present step."


def _delete(run: Run) -> str:
    delete_run(run)
    return f"Deleted {run.id}."


def _enqueue(run: Run) -> str:
    run_queue.enqueue(run)
    if run in run_queue.start_next():
        return "Its devices are free, so it starts at once."
    return "In line. It starts by itself once its devices are free."


def _unqueue(run: Run) -> str:
    run_queue.remove(run)
    return "Taken out of the line. It does not start by itself any more."


def _queue_up(run: Run) -> str:
    run_queue.move(run, -1)
    return _place(run)


def _queue_down(run: Run) -> str:
    run_queue.move(run, 1)
    return _place(run)


def _place(run: Run) -> str:
    others = len(run_queue.rivals_before(run))
    return "It is next in line." if not others else f"It is number {others + 1} in line."


ACTIONS: dict[str, Callable[[Run], str]] = {
    "start": _resume,
    "resume": _resume,
    "stop": _stop,
    "stop_now": _stop_now,
    "save": _save,
    "sample": _sample,
    "delete": _delete,
    "enqueue": _enqueue,
    "unqueue": _unqueue,
    "queue_up": _queue_up,
    "queue_down": _queue_down,
}


def seconds_since_stop(run: Run) -> float | None:
    """Return how long ago a stop was asked for, or None."""
    try:
        return max(0.0, time.time() - run.stop_file.stat().st_mtime)
    except OSError:
        return None


def total_tokens(recipe: Recipe) -> int:
    """Return the training tokens of all stages."""
    return sum(
        stage.settings.total_tokens()
        for stage in recipe.stages
        if isinstance(stage.settings, PretrainSettings)
    )


def check_name(value: object, what: str) -> str:
    """Return a short string from the browser, or raise OptionError."""
    if not isinstance(value, str) or len(value) > 200:
        raise OptionError(f"The {what} must be a short text.")
    return value
