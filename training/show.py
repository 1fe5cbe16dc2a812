"""A recipe as text for a terminal. Standard library only."""

from dataclasses import replace

from training.alarm_settings import AlarmSettings
from training.recipe import Recipe, Stage
from training.settings import (
    OPTIMIZER_NAMES,
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    describe_sources,
)


def describe_recipe(recipe: Recipe) -> str:
    """Return the whole recipe, a paragraph per stage."""
    lines = [
        f"{recipe.name}: {recipe.title}",
        recipe.purpose,
        f"start {recipe.start or 'from nothing'}, seed {recipe.seed}, "
        f"threads {recipe.num_threads or 'all cores'}, "
        f"processes {recipe.num_processes or 'one per GPU, else one'}, "
        f"GPUs {recipe.devices or 'all there are'}",
        _describe_alarms(recipe.alarms),
        "",
        *(line for stage in recipe.stages for line in (*_describe_stage(stage), "")),
        *([f"In the end: {' and '.join(recipe.pair)} are packed as a pair"] if recipe.pair else []),
        *(f"Note: {note}" for note in recipe.notes),
    ]
    return "\n".join(lines).rstrip()


def _describe_alarms(alarms: AlarmSettings) -> str:
    return (
        f"alarms: spike of {alarms.spike_deviations:g} deviations, plateau of "
        f"{alarms.plateau_steps:,} steps, stall after {alarms.stall_seconds:g} s and "
        f"{alarms.stall_factor:g} steps, slow below {alarms.throughput_share:.0%}, GPU at "
        f"{alarms.gpu_temperature:g} °C, disk below {alarms.disk_free_gigabytes:g} GB"
    )


def _describe_stage(stage: Stage) -> list[str]:
    skipped = ", skipped" if stage.skip else ""
    heading = f"{stage.name} ({stage.kind}{skipped}): {stage.title}"
    settings = stage.settings
    if isinstance(settings, PretrainSettings):
        return [heading, *_describe_pretraining(settings)]
    shape = (
        f"  hidden {settings.hidden_size}, intermediate {settings.intermediate_size}, "
        f"{settings.num_layers} layers, {settings.num_heads} heads"
    )
    if isinstance(settings, ExpandSettings):
        broken = f" ({settings.symmetry_break})" if settings.width == "clone" else ""
        rows = f", {settings.vocab_size:,} embedding rows" if settings.vocab_size else ""
        return [
            heading,
            f"{shape}{rows}",
            f"  width {settings.width}{broken}, depth {settings.depth}",
        ]
    assert isinstance(settings, CreateSettings)
    return [
        heading,
        shape,
        f"  vocabulary {settings.vocab_size:,} from {describe_sources(settings.sources)}, "
        f"at most {settings.max_characters:,} characters",
    ]


def _describe_pretraining(settings: PretrainSettings) -> list[str]:
    checkpointing = "with" if settings.gradient_checkpointing else "without"
    compiled = ", compiled" if settings.torch_compile else ""
    best = " and the best" if settings.keep_best else ""
    moments = ", going on with the moments of the stage before" if settings.carry_optimizer else ""
    return [
        f"  text: {describe_sources(settings.sources)}",
        f"  {settings.total_steps():,} steps of {settings.batch_size} windows = "
        f"{settings.total_tokens():,} tokens (budget: {settings.budget}{_other_budget(settings)}), "
        f"no text more than {settings.max_epochs:g} times",
        f"  {settings.micro_batch_size} windows at a time, {checkpointing} gradient checkpointing, "
        f"precision {settings.precision}{compiled}",
        f"  {OPTIMIZER_NAMES[settings.optimizer]}{moments}: learning rate "
        f"{settings.describe_schedule()}, weight decay "
        f"{settings.weight_decay:g}, clip {settings.clip_norm:g}",
        f"  {settings.validation_windows} held-out windows, validated every "
        f"{settings.validate_every:,} steps; a checkpoint every {settings.checkpoint_every:,}, "
        f"the newest {settings.keep_last}{best} kept",
    ]


def _other_budget(settings: PretrainSettings) -> str:
    """Return what the budget that does not count says, where the two disagree."""
    by_tokens = settings.budget == "tokens"
    other = replace(settings, budget="steps" if by_tokens else "tokens")
    if other.total_steps() == settings.total_steps():
        return ""
    if by_tokens:
        return f"; not the recipe's {settings.num_steps:,} steps"
    return f"; not the recipe's {settings.num_tokens:,} tokens"
