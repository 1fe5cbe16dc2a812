"""Stage `pretrain`: text to windows, windows to steps, steps to checkpoints.

This part gets everything ready: what to go on from, the data, the network, the optimizer and the
random states. The steps themselves are in pretraining.py.
"""

from pathlib import Path

import torch
from torch import nn
from transformers import LlamaForCausalLM

from training.ceiling import ceiling_flops
from training.checkpoint import end_token_of, load_model
from training.compiled import compile_network
from training.data import prepare_stage_data
from training.flops import training_flops_per_token
from training.memory import MemoryPrediction, predict_memory
from training.memory_check import tell_prediction
from training.network import TrainingNetwork, resolve_precision
from training.optim import make_optimizer
from training.pair.measure import check_apart
from training.recipe import Stage, sources_of
from training.settings import WINDOW_TOKENS
from training.stage_data import StageData, open_stage_data
from training.stages.context import StageContext
from training.stages.pretraining import Pretraining, Speed
from training.stages.start import Start, find_start
from training.trainer_state import restore_optimizer, restore_random_states, seed_generators


def pretrain(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Train from the newest sound checkpoint of this stage, else from `previous`."""
    assert previous is not None
    start = find_start(stage, context, previous)
    precision = resolve_precision(start.settings.precision, context.device)
    speed = Speed(
        training_flops_per_token(start.parent.shape, WINDOW_TOKENS),
        ceiling_flops(context.workers, precision),
    )
    _announce(start, context, precision, speed)
    prediction = predict_memory(
        start.parent.shape, start.settings, context.device, context.workers.num_workers
    )
    tell_prediction(context.recorder, stage.name, prediction, context.device)
    data = _stage_data(start, context)
    if data is None:
        context.recorder.say("Stopped while the text was prepared; what is finished of it is kept.")
        return None
    return _ready(start, context, data, precision, prediction, speed).run()


def _announce(start: Start, context: StageContext, precision: str, speed: Speed) -> None:
    """Tell that the stage starts, with what readers need to judge its numbers."""
    context.started(
        start.stage,
        start.step,
        flops_per_token=speed.flops_per_token,
        ceiling_flops=speed.ceiling_flops,
        parameters=start.parent.num_parameters,
        precision=precision,
        num_workers=context.workers.num_workers,
        tokens_per_step=start.settings.tokens_per_step(),
        schedule=start.settings.describe_schedule(),
    )


class _StopPreparing(Exception):  # noqa: N818 - a wish, not an error
    """A stop was asked for while the main worker prepares text."""


def _stage_data(start: Start, context: StageContext) -> StageData | None:
    """Return the stage's windows: the main worker prepares them while the others wait.

    None when a stop was asked for before they were ready.

    Raises:
        DataError: no text, or not the text that the resumed checkpoint was trained on.
        DiskError: no room for the windows.
    """
    stage = start.stage
    folder, seed = context.run.data_folder / stage.name, context.seed_of(stage)
    is_ready = not context.workers.is_main or _prepare(start, context, folder, seed)
    if context.workers.any(not is_ready):
        return None
    data = open_stage_data(folder, seed)
    if start.resumed and "data" in start.resumed.details:
        position = start.resumed.details["data"]
        data.check_position(position, start.step, start.settings.batch_size)
    _tell_data(stage, context, data)
    if context.recipe.pair:
        check_apart(stage.name, data.held_out_by)
    return data


def _prepare(start: Start, context: StageContext, folder: Path, seed: int) -> bool:
    """Write the stage's windows; tell whether that came to its end."""
    recorder = context.recorder

    def say(message: str) -> None:
        recorder.say(message)
        if recorder.stop_requested():
            raise _StopPreparing

    try:
        prepare_stage_data(
            sources_of(context.recipe, start.stage),
            start.parent.tokenizer,
            end_token_of(start.parent),
            start.settings,
            folder,
            seed,
            say,
        )
    except _StopPreparing:
        return False
    return True


def _tell_data(stage: Stage, context: StageContext, data: StageData) -> None:
    """Record what the stage reads, and warn when it reads any text more than once."""
    held_out = {part.label: len(part.windows) for part in data.held_out}
    context.recorder.event(
        "data",
        stage=stage.name,
        training_windows=data.num_training_windows,
        held_out_windows=held_out,
        held_out_by=data.held_out_by,
        epochs=data.epochs,
    )
    apart = {
        "documents": "from documents that no stage trains on",
        "windows": "the last of this stage's text, too short to hold whole documents out",
    }
    context.recorder.say(
        f"{data.num_training_windows:,} training and {sum(held_out.values())} held-out windows "
        f"({apart.get(data.held_out_by, data.held_out_by)}); {data.epochs:.2f} epochs"
    )
    if data.epochs > 1.001:
        context.recorder.warn(
            f"Stage {stage.name} reads its text {data.epochs:.1f} times; more text would be better."
        )


def _ready(
    start: Start,
    context: StageContext,
    data: StageData,
    precision: str,
    prediction: MemoryPrediction,
    speed: Speed,
) -> Pretraining:
    """Build model, optimizer and network, in the state in which the stage was left."""
    settings = start.settings
    model = load_model(start.parent)
    nn.Module.to(model, context.device)
    optimizer = make_optimizer(model, settings)
    _restore(start, context, model, optimizer)
    network = TrainingNetwork(
        model, precision=precision, gradient_checkpointing=settings.gradient_checkpointing
    )
    if settings.torch_compile:
        problem = compile_network(network, context.device)
        if problem:
            context.recorder.warn(problem)
    return Pretraining(
        stage=start.stage,
        settings=settings,
        context=context,
        parent=start.parent,
        tokenizer_folder=start.parent.folder,
        first_step=start.step,
        data=data,
        model=model,
        network=context.workers.prepare(network),
        optimizer=optimizer,
        prediction=prediction,
        speed=speed,
    )


def _restore(
    start: Start,
    context: StageContext,
    model: LlamaForCausalLM,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put the optimizer and every random generator into the state that the stage goes on with.

    A stage that begins seeds the generators itself, so that none depends on the stage before.
    """
    recorder, stage = context.recorder, start.stage
    if start.resumed:
        restore_optimizer(start.resumed.folder, model, optimizer)
        restore_random_states(start.resumed.folder, context.device)
        message = f"Resumed from {start.resumed.folder.name}."
        now, before = context.workers.num_workers, start.resumed.details.get("num_workers")
        if before not in (None, now):
            message += (
                f" It was trained by {before} and goes on with {now} process(es): every step sees "
                "the same windows, and adds them up in another order (not bit for bit the same)."
            )
        recorder.event("resumed", stage=stage.name, step=start.step, message=message)
        recorder.say(message)
        return
    seed_generators(context.seed_of(stage))
    if start.settings.carry_optimizer:
        restore_optimizer(start.previous, model, optimizer)
        recorder.say(f"The optimizer goes on with the moments of {start.previous.name}.")
