"""Is the learning rate sane for the width and for the way the model was grown?

Published peak rates of AdamW fall with the width about as 0.5 / width: 6e-4 at 768, 3e-4 at 1,024
and 2e-4 at 2,048 (GPT-3, arXiv 2005.14165, table 2.1); 1e-3 at 512 and 6e-4 at 768 (Pythia, arXiv
2304.01373). Steps of Muon are scaled to the size of AdamW's, and so are its rates.

Cloning repeats every input of a matrix, so that one step of Adam moves each sum by that factor
more; the rate has to be divided by it (as muP does for a wider layer, arXiv 2203.03466).
"""

from collections.abc import Iterator

from training.preflight.report import ERROR, NOTE, RATE, WARNING, Problem
from training.preflight.stages import PlannedStage
from training.settings import PretrainSettings

RATE_TIMES_WIDTH = 0.512
# Times the published rate for that width: unusual, and where training is known to break.
HIGH, TOO_HIGH = 2.0, 3.0
LOW = 0.01
# A stage of fewer steps has no use for a warm-up that anyone could see.
MIN_WARMED_STEPS = 100
LONG_WARMUP = 0.5
ROUNDING = 1.001


def rate_problems(planned: PlannedStage) -> Iterator[Problem]:
    """Yield what is odd about a training stage's learning rate."""
    settings = planned.stage.settings
    if not isinstance(settings, PretrainSettings):
        return
    yield from _width_problems(planned, settings)
    if planned.rate_factor < 1:
        yield from _clone_problems(planned, settings)
    yield from _warmup_problems(planned.stage.name, settings)


def _width_problems(planned: PlannedStage, settings: PretrainSettings) -> Iterator[Problem]:
    name, rate, width = planned.stage.name, settings.learning_rate, planned.shape.hidden_size
    usual = RATE_TIMES_WIDTH / width * planned.rate_factor
    grown = " grown by cloning" if planned.rate_factor < 1 else ""
    where = f"a width of {width:,}{grown}; published models of this width used about {usual:.1g}"
    if rate > TOO_HIGH * usual:
        message = f"A peak learning rate of {rate:g} is too high for {where}. It will diverge."
        yield Problem(name, ERROR, RATE, message, f"Set learning_rate to {usual:.1g} or less.")
    elif rate > HIGH * usual:
        message = f"A peak learning rate of {rate:g} is high for {where}."
        yield Problem(name, WARNING, RATE, message, f"Try {usual:.1g} first.")
    elif rate < LOW * usual:
        message = f"A peak learning rate of {rate:g} is very low for {where}."
        yield Problem(name, NOTE, RATE, message, "It teaches next to nothing in few steps.")


def _clone_problems(planned: PlannedStage, settings: PretrainSettings) -> Iterator[Problem]:
    """Yield what a clone does to the rate; an error about the width has said it already."""
    name, rate, factor = planned.stage.name, settings.learning_rate, planned.rate_factor
    before = planned.source_rate
    doubled = f"Cloning makes each step {1 / factor:g} times as large as the learning rate says"
    if before is not None and rate > ROUNDING * factor * before:
        message = f"{doubled}; the smaller model was trained with {before:g}, and this is {rate:g}."
        yield Problem(name, WARNING, RATE, message, f"Set learning_rate to {factor * before:g}.")
    elif before is None:
        message = f"{doubled}: {rate:g} acts like {rate / factor:g} did on the smaller model."
        yield Problem(
            name,
            NOTE,
            RATE,
            message,
            f"Use {factor:g} times the peak rate that the smaller model was trained with.",
        )


def _warmup_problems(name: str, settings: PretrainSettings) -> Iterator[Problem]:
    is_long_stage = settings.total_steps() >= MIN_WARMED_STEPS
    if settings.warmup_fraction == 0 and is_long_stage and not settings.carry_optimizer:
        yield Problem(
            name,
            WARNING,
            RATE,
            "The stage begins at its full learning rate with an optimizer that knows nothing yet.",
            "Set warmup_fraction to 0.02, or carry_optimizer where a stage before trains the same "
            "model.",
        )
    if settings.warmup_fraction > LONG_WARMUP:
        message = f"{settings.warmup_fraction:.0%} of the stage are warm-up."
        yield Problem(name, NOTE, RATE, message, "1 to 5 % are usual.")
