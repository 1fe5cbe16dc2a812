"""From what a rehearsal measured of a few steps to the time, energy and disk of the whole run.

Counted are steps, validations, checkpoints, samples, growth and the start of every stage; not
counted is the preparation of the whole text, of which a rehearsal needs only a little.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from stentor.home import runs_folder
from training.preflight.checks import Preflight, disk_of
from training.preflight.disk_use import CheckpointSizes
from training.preflight.measures import StageMeasures
from training.preflight.report import NOTE, RECIPE, WARNING, Problem, Report, StageFigures, Total
from training.preflight.room import free_disk
from training.preflight.show import duration
from training.preflight.shrink import Shrunken
from training.recipe import Stage
from training.settings import CreateSettings, PretrainSettings

LONG_SECONDS = 3600.0  # of work that a kill may cost
# More than this share of a stage spent on looking and saving is worth a word.
ASIDE_SHARE = 0.25

Watts = Callable[[float, float], float | None]


def num_validations(settings: PretrainSettings) -> int:
    """Return how often a stage is validated: before, on the way (Pretraining), and at its end."""
    inside, every = settings.total_steps() - 1, settings.validate_every
    count = inside // every
    if settings.keep_best:
        saves = settings.checkpoint_every
        count += inside // saves - inside // math.lcm(every, saves)
    return count + 2


def num_checkpoints(settings: PretrainSettings) -> int:
    """Return how many checkpoints a stage writes, the last one included."""
    return (settings.total_steps() - 1) // settings.checkpoint_every + 1


def estimate(
    preflight: Preflight,
    shrunken: Shrunken,
    measures: Mapping[str, StageMeasures],
    watts: Watts,
    energy_source: str | None,
    start_seconds: float,
) -> Report:
    """Return the preflight's report with what the measures of the rehearsed stages mean.

    `watts(start, end)` is the mean power between two times; `start_seconds` is what the process
    takes before its first stage.
    """
    small = {stage.name: stage for stage in shrunken.recipe.stages}
    figures: list[StageFigures] = []
    sizes: list[CheckpointSizes] = []
    problems: list[Problem] = []
    joined = zip(preflight.planned, preflight.sizes, preflight.report.stages, strict=True)
    for planned, size, values in joined:
        stage = planned.stage
        name = shrunken.measured_by.get(stage.name, stage.name)
        measured = measures.get(name)
        if measured is None:
            figures.append(values)
            sizes.append(size)
            continue
        values, size = _with_measures(stage, small[name], measured, values, size)
        power = watts(measured.steps_started or measured.started, measured.ended)
        if power is not None and values.seconds is not None:
            values = replace(values, energy_joules=power * values.seconds)
        figures.append(values)
        sizes.append(size)
        problems += _interval_problems(stage, small[name], measured, values)
    report = replace(
        preflight.report,
        problems=(*preflight.report.problems, *problems),
        stages=tuple(figures),
        steps_rehearsed=sum(measured.num_steps for measured in measures.values()),
    )
    disk = disk_of(preflight.planned, sizes, figures)
    seconds = [values.seconds for values in figures if values.seconds is not None]
    if len(seconds) < len(figures):
        return report
    energies = [value.energy_joules for value in figures if value.energy_joules is not None]
    total = Total(
        seconds=start_seconds + sum(seconds),
        energy_joules=sum(energies) if energies else None,
        energy_source=energy_source if energies else None,
        disk_bytes=disk.peak,
        disk_left_bytes=disk.left,
        disk_free_bytes=free_disk(runs_folder()),
        peak_memory_bytes=max(v.memory_measured or v.memory_predicted or 0 for v in figures),
    )
    return replace(report, total=total)


def _with_measures(
    stage: Stage,
    small: Stage,
    measured: StageMeasures,
    values: StageFigures,
    sizes: CheckpointSizes,
) -> tuple[StageFigures, CheckpointSizes]:
    """Return figures and sizes with measured values where there are some.

    Whether a last checkpoint keeps the moments is the whole recipe's business: then it is as large
    as the others.
    """
    keeps_moments = sizes.final == sizes.to_resume
    to_resume = measured.checkpoint_bytes or sizes.to_resume
    final = to_resume if keeps_moments else measured.final_bytes or sizes.final
    settings, few = stage.settings, small.settings
    if isinstance(settings, PretrainSettings):
        assert isinstance(few, PretrainSettings)
        values = replace(
            values,
            checkpoint_bytes=to_resume,
            tokens_per_second=measured.tokens_per_second,
            seconds=_training_seconds(settings, few, measured),
            memory_measured=measured.memory_bytes,
        )
        return values, CheckpointSizes(to_resume, final)
    seconds = measured.ended - measured.started
    if isinstance(settings, CreateSettings) and isinstance(few, CreateSettings):
        seconds *= settings.max_characters / few.max_characters
    final = measured.final_bytes or sizes.final
    return replace(values, seconds=seconds, checkpoint_bytes=final), CheckpointSizes(final, final)


def _step_seconds(
    settings: PretrainSettings, few: PretrainSettings, measured: StageMeasures
) -> float | None:
    """Return the seconds of a whole step, where the measured one had fewer windows."""
    if measured.step_seconds is None:
        return None
    return measured.step_seconds * settings.batch_size / few.batch_size


def _aside_seconds(
    settings: PretrainSettings, few: PretrainSettings, measured: StageMeasures
) -> float:
    """Return the seconds that a stage spends on validations, checkpoints and samples."""
    windows = settings.validation_windows / few.validation_windows
    looking = num_validations(settings) * measured.validation_seconds * windows
    saving = measured.checkpoint_seconds + measured.samples_seconds
    return looking + num_checkpoints(settings) * saving


def _training_seconds(
    settings: PretrainSettings, few: PretrainSettings, measured: StageMeasures
) -> float | None:
    step = _step_seconds(settings, few, measured)
    if step is None:
        return None
    aside = _aside_seconds(settings, few, measured)
    return measured.setup_seconds + settings.total_steps() * step + aside


def _interval_problems(
    stage: Stage, small: Stage, measured: StageMeasures, values: StageFigures
) -> Iterator[Problem]:
    """Yield that a stage saves too rarely, or spends its time on saving and looking."""
    settings, few = stage.settings, small.settings
    if not (isinstance(settings, PretrainSettings) and isinstance(few, PretrainSettings)):
        return
    step = _step_seconds(settings, few, measured)
    if step is None or not values.seconds:
        return
    between = step * min(settings.checkpoint_every, settings.total_steps())
    if between > LONG_SECONDS:
        message = f"{duration(between)} lie between two checkpoints: a power cut costs as much."
        mend = f"A checkpoint_every of {max(1, int(LONG_SECONDS / step)):,} saves every hour."
        yield Problem(stage.name, WARNING, RECIPE, message, mend)
    aside = _aside_seconds(settings, few, measured)
    if aside > ASIDE_SHARE * values.seconds:
        message = f"{aside / values.seconds:.0%} of the time go to validation and checkpoints."
        mend = "Raise validate_every and checkpoint_every, or lower validation_windows."
        yield Problem(stage.name, NOTE, RECIPE, message, mend)
