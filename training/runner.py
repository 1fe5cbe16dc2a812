"""Runs a run folder from wherever it is to its end: the process that a start button starts.

Where several processes are to train, this one becomes their launcher, and each of them comes here
again as a worker. The main worker alone writes the run folder; stages that train nothing are its
work alone, while the others wait.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from stentor.errors import DataError, ModelError, OptionError, RunError, TrainingError
from stentor.hub import folder_of
from stentor.jobs import launcher_pid, training_refusal, worker_rank
from stentor.models import find_model
from stentor.notify import Notifier, open_notifier, tell_end
from stentor.runs import Run, list_checkpoints, read_recipe
from training.alarms.watch import AlarmWatch
from training.checkpoint import finished_checkpoint, open_sound
from training.hardware import machine_to_json
from training.launch import become_launcher, check_shares, end_with, num_processes
from training.pair.measure import check_held_out
from training.pair.origin import NO_PAIR
from training.pair.pack import pack_pair
from training.recipe import Recipe, Stage, check_text, recipe_from_json, sources_of
from training.recorder import Recorder, SilentRecorder
from training.retention import newest_sound_checkpoint, prune_checkpoints
from training.settings import PretrainSettings
from training.sources import holds_text, no_text
from training.stages import STAGES
from training.stages.context import StageContext
from training.workers import is_lost_worker, open_workers

# Stages of more tokens than this take days on a CPU; it is a mistake, not a wish.
MAX_CPU_TOKENS = 100_000_000
ENDED_STATES = ("finished", "stopped", "failed")


def execute(run: Run) -> int:
    """Run every unfinished stage; return the exit code (0 finished or stopped, 2 failed).

    Does not return where the run is one of several processes: then it becomes their launcher.
    """
    launcher = launcher_pid()
    if launcher is not None:
        end_with(launcher)
    recorder = SilentRecorder(run) if worker_rank() else Recorder(run)
    notifier, problem = open_notifier(recorder.say)
    with _told_end(recorder, notifier), recorder:
        recipe = _checked_recipe(run)
        if worker_rank() is None:
            count = num_processes(recipe)
            if count > 1:
                recorder.say(f"Starting {count} processes that train together.")
                become_launcher(run, count, recipe.num_threads)
        workers = open_workers(recipe.num_threads)
        check_shares(recipe, workers.num_workers)
        recorder.event("machine", **machine_to_json(), num_workers=workers.num_workers)
        if problem:
            recorder.warn(problem)
        watch = AlarmWatch(recorder, recipe, notifier) if workers.is_main else None
        with watch or nullcontext():
            _work(StageContext(run, recipe, recorder, workers), watch)
    has_failed = recorder.status.state == "failed"
    if has_failed and worker_rank():  # its recorder is silent; the main worker may know less
        print(f"Worker {worker_rank()}: {recorder.status.error}", file=sys.stderr)
    return 2 if has_failed else 0


@contextmanager
def _told_end(recorder: Recorder, notifier: Notifier) -> Iterator[None]:
    """Tell how the block's run ended, however that was; of several workers the main one tells."""
    try:
        yield
    finally:
        if recorder.status.state in ENDED_STATES and not worker_rank():
            tell_end(notifier, recorder.run, recorder.status)
        notifier.close()


def _checked_recipe(run: Run) -> Recipe:
    """Return the run's recipe, or refuse what cannot end well."""
    refusal = training_refusal()
    if refusal:
        raise RunError(refusal)
    recipe = recipe_from_json(read_recipe(run))
    check_machine(recipe)
    is_new = not list_checkpoints(run)
    if is_new or recipe.pair:  # else text that was read already may be gone
        check_text(recipe)
    if is_new:
        check_sources(recipe)
    if recipe.pair:  # a pair is measured on the text in the end
        check_held_out(recipe)
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


def _work(context: StageContext, watch: AlarmWatch | None) -> None:
    """Run the stages and part in order.

    Raises:
        TrainingError: another worker is gone, so that no step can be taken any more.
    """
    try:
        _run_stages(context)
        context.workers.close()
    except RuntimeError as error:
        num_workers = context.workers.num_workers
        if num_workers > 1 and is_lost_worker(error):
            if watch:
                watch.lose_worker(num_workers, error)
            raise TrainingError(
                "Another of the processes that train this run has ended; its last words may be in "
                "the log. Resume goes on from the newest checkpoint."
            ) from error
        raise


def _run_stages(context: StageContext) -> None:
    recipe, recorder = context.recipe, context.recorder
    first = context.workers.of_main(_first_needed(context) if context.workers.is_main else 0)
    checkpoint = context.branch_folder(recipe.stages[first - 1]) if first else locate_start(recipe)
    if context.workers.is_main:
        _look_back(recipe.stages[:first], context)
    for stage in recipe.stages[first:]:
        finished = _run_stage(stage, context, checkpoint)
        is_last = stage == recipe.stages[-1] and not recipe.pair
        is_stopped = context.workers.any(recorder.stop_requested()) and not is_last
        if finished is None or is_stopped:
            recorder.say("Stopped. Resume goes on from here.")
            return
        checkpoint = context.branch_folder(stage)
    if recipe.pair and not _pack(context):
        recorder.say("Stopped. Resume packs the pair.")
        return
    recorder.finish()


def _pack(context: StageContext) -> bool:
    """Pack the pair, the work of the main worker; return False where a stop was asked for."""
    is_stopped = context.workers.is_main and not pack_pair(context)
    return not context.workers.any(is_stopped)


def _first_needed(context: StageContext) -> int:
    """Return the number of the last stage with a sound checkpoint; what came before is not needed.

    An earlier stage may have lost its checkpoint, or a bit of it, while a later one went on from
    it: to train it again would take days and change nothing. (A pair needs its base: `_look_back`.)
    """
    stages = context.recipe.stages
    for number in reversed(range(len(stages))):
        name, steps = stages[number].name, stages[number].total_steps()
        if finished_checkpoint(context.run, name, steps) or (
            isinstance(stages[number].settings, PretrainSettings)
            and newest_sound_checkpoint(context.run, name)[0]
        ):
            return number
    return 0


def _look_back(stages: tuple[Stage, ...], context: StageContext) -> None:
    """Tell, of stages that are behind, the news that a kill swallowed and damage of their results.

    Nothing needs these any more but a pair; yet someone may open one.

    Raises:
        ModelError: a model that is to be packed is damaged or gone.
    """
    for stage in stages:
        folder = context.final_folder(stage)
        is_packed = stage.name in context.recipe.pair
        try:
            if folder.exists() or is_packed:
                open_sound(folder, to_resume=False)
                _tidy_up(stage, context)
        except ModelError as error:
            if is_packed:
                raise ModelError(f"{error} {NO_PAIR}") from error
            context.recorder.warn(f"{error} Training goes on without {folder.name}; do not use it.")


def _run_stage(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Return the stage's final checkpoint, run where it is missing; None: stopped on the way.

    What the main worker finds on the disk counts for all, since it alone writes there.
    """
    workers, final = context.workers, context.final_folder(stage)
    steps = stage.total_steps()
    is_finished = workers.is_main and finished_checkpoint(context.run, stage.name, steps) == final
    if workers.any(is_finished):
        if workers.is_main:
            _tidy_up(stage, context)
        return final
    if stage.name in context.recorder.status.finished_stages:
        context.recorder.warn(
            f"Stage {stage.name} was finished, and its checkpoint {final.name} is gone or damaged. "
            "It goes on again from what is left."
        )
    result: Path | None = final
    if workers.is_main or isinstance(stage.settings, PretrainSettings):
        result = STAGES[stage.kind](stage, context, previous)
    return None if workers.any(result is None) else final


def _tidy_up(stage: Stage, context: StageContext) -> None:
    """Do what a kill right after the final checkpoint of a stage left undone."""
    if stage.name not in context.recorder.status.finished_stages:
        context.announce_finished(stage, context.final_folder(stage))
    if isinstance(stage.settings, PretrainSettings):
        prune_checkpoints(
            context.run,
            stage.name,
            stage.total_steps(),
            keep_last=stage.settings.keep_last,
            keep_best=stage.settings.keep_best,
            keep_step=stage.settings.branch_step(),
        )


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
