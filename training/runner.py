"""Runs a run folder from wherever it is to its end: the process that a start button starts.

Where several processes are to train, this one becomes their launcher, and each of them comes here
again as a worker. The main worker alone writes the run folder; stages that train nothing are its
work alone, while the others wait.
"""

import sys
from pathlib import Path

import torch

from stentor.errors import DataError, OptionError, RunError, TrainingError
from stentor.hub import folder_of
from stentor.jobs import launcher_pid, training_refusal, worker_rank
from stentor.models import find_model
from stentor.runs import Run, list_checkpoints, read_recipe
from training.checkpoint import finished_checkpoint
from training.hardware import machine_to_json
from training.launch import become_launcher, check_shares, end_with, num_processes
from training.recipe import Recipe, Stage, check_text, recipe_from_json, sources_of
from training.recorder import Recorder, SilentRecorder
from training.settings import PretrainSettings
from training.sources import holds_text, no_text
from training.stages import STAGES
from training.stages.context import StageContext
from training.workers import is_lost_worker, open_workers

# Stages of more tokens than this take days on a CPU; it is a mistake, not a wish.
MAX_CPU_TOKENS = 100_000_000


def execute(run: Run) -> int:
    """Run every unfinished stage; return the exit code (0 finished or stopped, 2 failed).

    Does not return where the run is one of several processes: then it becomes their launcher.
    """
    launcher = launcher_pid()
    if launcher is not None:
        end_with(launcher)
    recorder = SilentRecorder(run) if worker_rank() else Recorder(run)
    with recorder:
        recipe = _checked_recipe(run)
        if worker_rank() is None:
            count = num_processes(recipe)
            if count > 1:
                recorder.say(f"Starting {count} processes that train together.")
                become_launcher(run, count, recipe.num_threads)
        workers = open_workers(recipe.num_threads)
        check_shares(recipe, workers.num_workers)
        recorder.event("machine", **machine_to_json(), num_workers=workers.num_workers)
        _work(StageContext(run, recipe, recorder, workers))
    has_failed = recorder.status.state == "failed"
    if has_failed and worker_rank():  # its recorder is silent; the main worker may know less
        print(f"Worker {worker_rank()}: {recorder.status.error}", file=sys.stderr)
    return 2 if has_failed else 0


def _checked_recipe(run: Run) -> Recipe:
    """Return the run's recipe, or refuse what cannot end well."""
    refusal = training_refusal()
    if refusal:
        raise RunError(refusal)
    recipe = recipe_from_json(read_recipe(run))
    check_machine(recipe)
    if not list_checkpoints(run):  # later, text that was read already may be gone
        check_text(recipe)
        check_sources(recipe)
    return recipe


def check_sources(recipe: Recipe) -> None:
    """Read the beginning of every local text, so that a wrong column is found before the run.

    Raises:
        DataError: names the stage, the file and the row.
    """
    for stage in recipe.stages:
        sources = sources_of(recipe, stage)
        try:
            if sources and not any([holds_text(source) for source in sources]):
                raise no_text(sources[0])
        except DataError as error:
            raise DataError(f"Stage {stage.name}: {error}") from error


def _work(context: StageContext) -> None:
    """Run the stages and part in order.

    Raises:
        TrainingError: another worker is gone, so that no step can be taken any more.
    """
    try:
        _run_stages(context)
        context.workers.close()
    except RuntimeError as error:
        if context.workers.num_workers > 1 and is_lost_worker(error):
            raise TrainingError(
                "Another of the processes that train this run has ended; its last words may be in "
                "the log. Resume goes on from the newest checkpoint."
            ) from error
        raise


def _run_stages(context: StageContext) -> None:
    recipe, recorder = context.recipe, context.recorder
    checkpoint = locate_start(recipe)
    for stage in recipe.stages:
        finished = _run_stage(stage, context, checkpoint)
        is_last = stage == recipe.stages[-1]
        is_stopped = context.workers.any(recorder.stop_requested()) and not is_last
        if finished is None or is_stopped:
            recorder.say("Stopped. Resume goes on from here.")
            return
        checkpoint = finished
    recorder.finish()


def _run_stage(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Return the stage's final checkpoint, run where it is missing; None: stopped on the way.

    What the main worker finds on the disk counts for all, since it alone writes there.
    """
    workers, recorder = context.workers, context.recorder
    finished = finished_checkpoint(context.run, stage.name, stage.total_steps())
    if workers.any(workers.is_main and finished is not None):
        if stage.name not in recorder.status.finished_stages and finished is not None:
            context.announce_finished(stage, finished)
    elif workers.is_main or isinstance(stage.settings, PretrainSettings):
        finished = STAGES[stage.kind](stage, context, previous)
    if workers.any(workers.is_main and finished is None):
        return None
    if workers.is_main:
        return finished
    return finished_checkpoint(context.run, stage.name, stage.total_steps())


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
