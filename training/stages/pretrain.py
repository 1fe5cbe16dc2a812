"""Stage `pretrain`: text to windows, windows to steps, steps to checkpoints.

This part gets everything ready: what to go on from, the data, the network, the optimizer and the
random states. The steps themselves are in pretraining.py.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

from stentor.errors import OptionError
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from training.checkpoint import checkpoint_name, end_token_of, load_model
from training.compiled import compile_network
from training.data import prepare_stage_data
from training.flops import training_flops_per_token
from training.integrity import TRAINER_FILE
from training.memory import MemoryPrediction, predict_memory
from training.memory_check import tell_prediction
from training.network import TrainingNetwork, resolve_precision
from training.optim import make_optimizer
from training.recipe import Stage, sources_of
from training.retention import Resumed, newest_sound_checkpoint
from training.settings import WINDOW_TOKENS, PretrainSettings
from training.stage_data import StageData, open_stage_data
from training.stages.context import StageContext
from training.stages.pretraining import Pretraining
from training.trainer_state import restore_optimizer, restore_random_states, seed_generators

# Settings that decide which windows a step sees, beside the recipe's seed.
DECIDE_WINDOWS = (
    "seed",
    "sources",
    "budget",
    "num_steps",
    "num_tokens",
    "batch_size",
    "validation_windows",
)


def pretrain(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Train from the newest sound checkpoint of this stage, else from `previous`."""
    assert previous is not None
    start = _find_start(stage, context, previous)
    precision = resolve_precision(start.settings.precision, context.device)
    _announce(start, context, precision)
    prediction = predict_memory(
        start.parent.shape, start.settings, context.device, context.workers.num_workers
    )
    tell_prediction(context.recorder, stage.name, prediction, context.device)
    data = _stage_data(start, context)
    if data is None:
        context.recorder.say("Stopped while the text was prepared; what is finished of it is kept.")
        return None
    return _ready(start, context, data, precision, prediction).run()


@dataclass(frozen=True)
class _Start:
    """What a stage starts from: `previous`, its input, or where it was left (`resumed`)."""

    stage: Stage
    settings: PretrainSettings
    previous: Path
    resumed: Resumed | None
    parent: Checkpoint

    @property
    def step(self) -> int:
        return self.resumed.step if self.resumed else 0


def _find_start(stage: Stage, context: StageContext, previous: Path) -> _Start:
    """Return the newest sound checkpoint of the stage, or its input; warn of damaged ones.

    Raises:
        OptionError: the recipe was changed in what a stage under way cannot change.
    """
    settings = stage.settings
    assert isinstance(settings, PretrainSettings)
    resumed = _find_resumed(stage, context)
    if resumed:
        _check_unchanged(settings, resumed, context)
    folder = resumed.folder if resumed else previous
    if folder.parent == context.run.checkpoints_folder:  # not the recipe's start model
        context.recorder.update(checkpoint=folder.name)
    return _Start(stage, settings, previous, resumed, open_checkpoint_folder(folder))


def _find_resumed(stage: Stage, context: StageContext) -> Resumed | None:
    """Return what the main worker finds to go on from; the others open the same."""
    resumed: Resumed | None = None
    if context.workers.is_main:
        resumed, problems = newest_sound_checkpoint(context.run, stage.name)
        for problem in problems:
            context.recorder.warn(problem)
    step = context.workers.of_main(resumed.step if resumed else 0)
    if step and not resumed:
        folder = context.run.checkpoints_folder / checkpoint_name(stage.name, step)
        resumed = Resumed(folder, step, read_json(folder / TRAINER_FILE))
    return resumed


def _check_unchanged(settings: PretrainSettings, resumed: Resumed, context: StageContext) -> None:
    """Compare the recipe with the one that the checkpoint was trained by; tell of a difference.

    Raises:
        OptionError: it decides which windows a step sees. Found here, before text is prepared anew.
    """
    before = resumed.details.get("settings")
    if not isinstance(before, dict):  # a checkpoint of an earlier version
        return
    before = {**before, "seed": resumed.details.get("seed")}
    now = {**json.loads(json.dumps(asdict(settings))), "seed": context.recipe.seed}
    for values in (before, now):
        values["sources"] = [_text_of(source) for source in values.get("sources", ())]
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    words = {name: f"{name} is {now[name]} and was {before[name]}" for name in changed}
    fixed = [words[name] for name in changed if name in DECIDE_WINDOWS]
    if fixed:
        raise OptionError(
            f"The recipe was changed since {resumed.folder.name}: {'; '.join(fixed)}. A stage that "
            "has begun cannot change which windows its steps see. Put recipe.json back, or start a "
            "new run."
        )
    if changed:
        context.recorder.warn(
            f"The recipe was changed since {resumed.folder.name}: {'; '.join(words.values())}."
        )


def _text_of(source: dict[str, Any]) -> dict[str, Any]:
    """Return a source without its licence, which earlier versions did not note."""
    return {name: value for name, value in source.items() if name != "licence"}


def _announce(start: _Start, context: StageContext, precision: str) -> None:
    """Tell that the stage starts, with what readers need to judge its numbers."""
    context.started(
        start.stage,
        start.step,
        flops_per_token=training_flops_per_token(start.parent.shape, WINDOW_TOKENS),
        parameters=start.parent.num_parameters,
        precision=precision,
        num_workers=context.workers.num_workers,
        tokens_per_step=start.settings.tokens_per_step(),
        schedule=start.settings.describe_schedule(),
    )


class _StopPreparing(Exception):  # noqa: N818 - a wish, not an error
    """A stop was asked for while the main worker prepares text."""


def _stage_data(start: _Start, context: StageContext) -> StageData | None:
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
    return data


def _prepare(start: _Start, context: StageContext, folder: Path, seed: int) -> bool:
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
    start: _Start,
    context: StageContext,
    data: StageData,
    precision: str,
    prediction: MemoryPrediction,
) -> Pretraining:
    """Build model, optimizer and network, in the state in which the stage was left."""
    settings = start.settings
    model = load_model(start.parent)
    nn.Module.to(model, context.device)
    optimizer = make_optimizer(model, settings.learning_rate, settings.weight_decay)
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
    )


def _restore(
    start: _Start,
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
