"""What the Training tab's buttons do: plan, start, stop and resume a run.

Every function that changes something asks first whether it may, because anyone who can reach the
server can call a handler without the page. Knows no Gradio.
"""

import shlex
import time
from dataclasses import dataclass

from stentor import jobs
from stentor.errors import OptionError, RunError
from stentor.runs import Run, create_run, current_status, open_run
from stentor.ui.shared import duration
from stentor.ui.train_allowed import must_be_allowed
from stentor.ui.train_uploads import find_text
from training.recipe import Recipe, check_recipe, check_text, recipe_to_json, with_budget, with_text
from training.recipes import find_recipe
from training.settings import PretrainSettings

EVERY_STAGE = ""
# A step of a large batch takes a while; after this long without an end, a second stop is harder.
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """What the form says: a recipe by name, and what is changed in it.

    `budget`: steps, tokens, or None for the recipe's own. `texts`: names in the uploads folder,
    read by the stage `text_stage`, or by every stage.
    """

    recipe: str
    budget: str | None = None
    texts: tuple[str, ...] = ()
    text_stage: str = EVERY_STAGE


def planned_recipe(plan: Plan) -> Recipe:
    """Return the checked recipe of a plan.

    Raises:
        OptionError, DataError: a name that does not exist.
    """
    recipe = find_recipe(plan.recipe)
    if plan.budget:
        recipe = with_budget(recipe, plan.budget)
    if plan.texts:
        paths = tuple(str(find_text(name)) for name in plan.texts)
        recipe = with_text(recipe, paths, plan.text_stage or None)
    return check_recipe(recipe)


def command_of(plan: Plan) -> str:
    """Return the command line that starts the same run from a terminal."""
    words = ["python", "-m", "training", "run", plan.recipe]
    stage = f"{plan.text_stage}=" if plan.text_stage else ""
    for name in plan.texts:
        words += ["--text", f"{stage}{find_text(name)}"]
    if plan.budget:
        words += ["--budget", plan.budget]
    return shlex.join(words)


def start_run(plan: Plan, refusal: str | None) -> Run:
    """Create a run folder and start its process.

    Raises:
        RunError: not allowed here, or another run is going.
        OptionError, DataError: a bad plan, or a stage without its text.
    """
    must_be_allowed(refusal)
    recipe = planned_recipe(plan)
    check_text(recipe)
    jobs.check_can_start()  # before a folder is made
    run = create_run(recipe_to_json(recipe), recipe.name)
    jobs.start(run)
    return run


def resume_run(run_id: str, refusal: str | None) -> str:
    """Let a run go on from its last checkpoint; return the news for the user."""
    must_be_allowed(refusal)
    run = open_run(run_id)
    state = current_status(run).state
    if state == "finished":
        raise RunError(f"Run {run.id} is finished; there is nothing to resume.")
    if state in jobs.ACTIVE_STATES:
        raise RunError(f"Run {run.id} is already going.")
    jobs.start(run, "run" if state == "created" else "resume")
    return "Resuming from the last checkpoint." if state != "created" else "Starting."


def stop_run(run_id: str, refusal: str | None) -> str:
    """Ask a run to save and end; asked again after PATIENCE_SECONDS, end its process."""
    must_be_allowed(refusal)
    run = open_run(run_id)
    if current_status(run).state not in jobs.ACTIVE_STATES:
        raise RunError(f"Run {run.id} is not going.")
    waited = seconds_since_stop(run)
    if waited is None:
        jobs.ask_to_stop(run)
        return "Asked to stop. It saves a checkpoint after the present step."
    if waited < PATIENCE_SECONDS:
        left = duration(PATIENCE_SECONDS - waited)
        return f"Already asked to stop. If it still runs in {left}, press again to end it."
    if jobs.terminate(run):
        return "Ended. Work since the last checkpoint will be repeated by Resume."
    return "The process does not end. Look at the log, or end it by hand."


def seconds_since_stop(run: Run) -> float | None:
    """Return how long ago a stop was asked for, or None."""
    try:
        return max(0.0, time.time() - run.stop_file.stat().st_mtime)
    except OSError:
        return None


def budgets_differ(recipe: Recipe) -> bool:
    """Tell whether counting tokens instead of steps makes a run of another length."""
    return total_tokens(with_budget(recipe, "steps")) != total_tokens(with_budget(recipe, "tokens"))


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
