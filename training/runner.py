"""Runs a run folder from wherever it is to its end: the process that a start button starts."""

from pathlib import Path

import torch

from stentor.errors import OptionError, RunError
from stentor.hub import folder_of
from stentor.jobs import training_refusal
from stentor.models import find_model
from stentor.provenance import num_cores
from stentor.runs import Run, list_checkpoints, read_recipe
from training.checkpoint import finished_checkpoint
from training.hardware import describe_machine, machine_to_json
from training.recipe import Recipe, check_text, recipe_from_json
from training.recorder import Recorder
from training.settings import PretrainSettings
from training.stages import STAGES
from training.stages.context import StageContext

# Stages of more tokens than this take days on a CPU; it is a mistake, not a wish.
MAX_CPU_TOKENS = 100_000_000


def execute(run: Run) -> int:
    """Run every unfinished stage; return the exit code (0 finished or stopped, 2 failed)."""
    recorder = Recorder(run)
    with recorder:
        refusal = training_refusal()
        if refusal:
            raise RunError(refusal)
        recipe = recipe_from_json(read_recipe(run))
        check_machine(recipe)
        if not list_checkpoints(run):  # later, text that was read already may be gone
            check_text(recipe)
        torch.set_num_threads(recipe.num_threads or num_cores())
        machine = describe_machine()
        recorder.event("machine", **machine_to_json())
        context = StageContext(run, recipe, recorder, torch.device(machine.device))
        _run_stages(context)
    return 2 if recorder.status.state == "failed" else 0


def _run_stages(context: StageContext) -> None:
    recipe, recorder = context.recipe, context.recorder
    checkpoint = locate_start(recipe)
    for stage in recipe.stages:
        finished = finished_checkpoint(context.run, stage.name, stage.total_steps())
        if finished is None:
            finished = STAGES[stage.kind](stage, context, checkpoint)
        elif stage.name not in recorder.status.finished_stages:
            context.announce_finished(stage, finished)
        is_last = stage == recipe.stages[-1]
        if finished is None or (recorder.stop_requested() and not is_last):
            recorder.say("Stopped. Resume goes on from here.")
            return
        checkpoint = finished
    recorder.finish()


def locate_start(recipe: Recipe) -> Path | None:
    """Return the folder of the start model; None where the recipe creates its own.

    Raises:
        RunError: the model is known but not on this machine.
    """
    if recipe.start is None:
        return None
    spec = find_model(recipe.start)
    folder = folder_of(spec)
    if folder is None:
        raise RunError(
            f"{spec.title} ({spec.hub_id}) is not on this machine yet. Fetch it in the playground, "
            f"or with: hf download {spec.hub_id}"
        )
    return folder


def check_machine(recipe: Recipe) -> None:
    """Refuse, before anything is written, what this machine cannot do in a lifetime.

    Raises:
        OptionError: a CPU is asked for more tokens than it can see in days.
    """
    tokens = sum(
        stage.settings.total_tokens()
        for stage in recipe.stages
        if isinstance(stage.settings, PretrainSettings)
    )
    if not torch.cuda.is_available() and tokens > MAX_CPU_TOKENS:
        raise OptionError(
            f"Recipe {recipe.name} trains on {tokens:,} tokens and this machine has no CUDA GPU; "
            f"a CPU is allowed {MAX_CPU_TOKENS:,}. Use one with a GPU, or the practice recipe."
        )
