"""The plan of a comparison: which runs, how many steps, how long. Pure arithmetic, no torch.

The plan is written to the comparison's folder before the first run; a rerun with the same folder
takes it from there, so that all runs have the same number of steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stentor.errors import OptionError, RunError
from stentor.knobs import from_json
from stentor.model_folder import read_json
from stentor.runs import write_json
from training.growth_comparison.options import (
    CONTINUED,
    CONTROLS,
    PRESETS,
    ComparisonOptions,
    growth_of,
    in_words,
    note_on,
)
from training.settings import WINDOW_TOKENS

PLAN_FILE = "plan.json"
DATA_FOLDER = "data"
# Measurements of a run after the one at its start: close together at first, where growth shows.
NUM_POINTS = 10
MIN_STEPS = 4
# Kept free for the text, the chart and what a rehearsal of seconds cannot foresee.
RESERVE_SHARE, RESERVE_SECONDS = 0.03, 3.0


@dataclass(frozen=True)
class Speeds:
    """Seconds on this machine, from a rehearsal: of a step, a validation, and one growth."""

    small_step: float
    large_step: float
    small_validation: float
    large_validation: float
    growth: float


@dataclass(frozen=True)
class Target:
    """The sizes of the large model."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int


@dataclass(frozen=True)
class Plan:
    """Everything that decides the results, and what it was expected to take."""

    model: str
    revision: str
    text: tuple[str, ...]
    strategies: tuple[str, ...]
    rate_factors: tuple[float, ...]
    num_seeds: int
    steps: int
    batch_size: int
    learning_rate: float
    optimizer: str
    precision: str
    validation_windows: int
    max_epochs: float
    target: Target
    source_tokens: int | None
    minutes: float
    predicted_seconds: float

    @property
    def runs(self) -> list[tuple[str, float, int]]:
        """Return strategy, share of the rate and seed of every run; whole seeds come first."""
        return [
            (strategy, factor, seed)
            for seed in range(self.num_seeds)
            for factor in self.rate_factors
            for strategy in self.strategies
        ]

    @property
    def tokens_per_run(self) -> int:
        """Return the training tokens of one run."""
        return self.steps * self.batch_size * WINDOW_TOKENS


def make_plan(
    options: ComparisonOptions,
    revision: str,
    target: Target,
    source_tokens: int | None,
) -> Plan:
    """Return the plan before its steps are chosen.

    Raises:
        OptionError: a strategy or a share of the rate is not possible, or is given twice.
    """
    preset = PRESETS[options.preset]
    strategies = options.strategies or preset.strategies
    factors = options.rate_factors or preset.rate_factors
    for strategy in strategies:
        growth_of(strategy)
    if len(set(strategies)) < len(strategies) or len(set(factors)) < len(factors):
        raise OptionError("A strategy or a share of the learning rate is given twice.")
    if not all(0 < factor <= 100 for factor in factors):
        shares = ", ".join(f"{factor:g}" for factor in factors)
        raise OptionError(f"Rate factors must be above 0 and at most 100; got {shares}.")
    return Plan(
        model=options.model,
        revision=revision,
        text=options.text,
        strategies=strategies,
        rate_factors=factors,
        num_seeds=options.seeds or preset.num_seeds,
        steps=options.steps or 0,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        optimizer=options.optimizer,
        precision=options.precision,
        validation_windows=options.validation_windows,
        max_epochs=options.max_epochs,
        target=target,
        source_tokens=source_tokens,
        minutes=options.minutes or preset.minutes,
        predicted_seconds=0.0,
    )


def evaluation_steps(steps: int) -> list[int]:
    """Return after which steps the loss is measured: 0, the last one, and more early than late."""
    return sorted({round(steps * (i / NUM_POINTS) ** 1.6) for i in range(NUM_POINTS + 1)})


def with_steps(plan: Plan, speeds: Speeds, spent_seconds: float) -> Plan:
    """Return the plan with as many steps as its minutes allow, and the time that this will take.

    A number of steps that was asked for stays; `spent_seconds` went before.
    """
    steps = plan.steps or _steps_within(plan, speeds, plan.minutes * 60 - spent_seconds)
    plan = replace(plan, steps=steps)
    return replace(plan, predicted_seconds=spent_seconds + _seconds(plan, speeds))


def _steps_within(plan: Plan, speeds: Speeds, seconds: float) -> int:
    """Return the most steps that fit; few steps have fewer measurements too."""
    usable = seconds * (1 - RESERVE_SHARE)
    steps = max(MIN_STEPS, math.floor(usable / _seconds_per_step(plan, speeds)))
    while steps > MIN_STEPS and _seconds(replace(plan, steps=steps), speeds) > usable:
        steps -= 1
    return steps - steps % 5 if steps > 50 else steps


def _seconds(plan: Plan, speeds: Speeds) -> float:
    num_points = len(evaluation_steps(plan.steps))
    fixed = sum(_fixed_seconds(plan, speeds, run[0], num_points) for run in plan.runs)
    return RESERVE_SECONDS + fixed + plan.steps * _seconds_per_step(plan, speeds)


def _seconds_per_step(plan: Plan, speeds: Speeds) -> float:
    """Return the seconds that one step more of every run takes."""
    return sum(
        speeds.small_step if strategy == CONTINUED else speeds.large_step
        for strategy, _, _ in plan.runs
    )


def _fixed_seconds(plan: Plan, speeds: Speeds, strategy: str, num_points: int) -> float:
    if strategy == CONTINUED:
        return num_points * speeds.small_validation
    return speeds.growth + num_points * speeds.large_validation


def describe_plan(plan: Plan, text: str) -> list[str]:
    """Return the plan in lines for people."""
    target, num_runs = plan.target, len(plan.runs)
    seeds = "1 seed" if plan.num_seeds == 1 else f"{plan.num_seeds} seeds"
    rates = ", ".join(f"{plan.learning_rate * factor:g}" for factor in plan.rate_factors)
    lines = [
        f"Grow {plan.model} ({plan.revision}) to width {target.hidden_size}, "
        f"{target.intermediate_size} SwiGLU units, {target.num_layers} layers, "
        f"{target.num_heads} heads, and train each on the same {plan.tokens_per_run:,} tokens of "
        f"{text}.",
        f"{num_runs} runs: {len(plan.strategies)} strategies, {seeds}, learning rate {rates}; "
        f"{plan.steps} steps of {plan.batch_size} x {WINDOW_TOKENS} tokens each:",
        *(
            f"  {in_words(strategy):44} {strategy}{note_on(strategy)}"
            for strategy in plan.strategies
        ),
        f"Predicted time: {duration(plan.predicted_seconds)} in all.",
    ]
    if plan.predicted_seconds > 1.1 * plan.minutes * 60:
        lines.append(
            f"That is more than {plan.minutes:g} minutes: name fewer --strategies, or take a "
            "smaller --batch-size."
        )
    missing = [name for name in CONTROLS if name not in plan.strategies]
    if missing:
        lines.append(f"Left out: {', '.join(missing)}, a control.")
    if plan.num_seeds == 1:
        lines.append("One seed shows curves and gives no verdict.")
    return lines


def duration(seconds: float) -> str:
    """Return a time such as `4:07` (minutes) or `1:02:15` (hours)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def write_plan(folder: Path, plan: Plan) -> None:
    """Store the plan in the comparison's folder."""
    values = {field.name: getattr(plan, field.name) for field in fields(plan)}
    write_json(folder / PLAN_FILE, {**values, "target": vars(plan.target)})


def read_plan(folder: Path) -> Plan | None:
    """Return the plan of a comparison that was begun in this folder, or None.

    Raises:
        RunError: there is one, and it cannot be read; or the folder holds something else.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or is_foreign(folder)):
            raise RunError(f"{folder} is there and holds no comparison. Give another --output.")
        return None
    try:
        plan = from_json(Plan, read_json(path))
        for strategy in plan.strategies:
            growth_of(strategy)
    except OptionError as error:
        raise RunError(f"{path} is not the plan of a comparison: {error}") from error
    return plan


def is_foreign(folder: Path) -> bool:
    """Tell whether a folder without a plan holds more than the text of an interrupted beginning."""
    return any(entry.name != DATA_FOLDER for entry in folder.iterdir())


def check_same(stored: Plan, asked: Plan, given: Sequence[str]) -> None:
    """Make sure that a rerun asks for nothing but what its folder holds.

    `given`: names of the options that were given this time; the others follow the stored plan.

    Raises:
        OptionError: names what is different.
    """
    names = {"seeds": "num_seeds"}
    of_preset = ("strategies", "rate_factors", "seeds", "minutes") if "preset" in given else ()
    problems = []
    for option in dict.fromkeys((*given, *of_preset, "model", "revision")):
        old, new = (_value_of(plan, names.get(option, option)) for plan in (stored, asked))
        if new != old:
            problems.append(f"{option.replace('_', ' ')} {_shown(old)}, not {_shown(new)}")
    if problems:
        raise OptionError(
            f"This folder holds a comparison with {'; '.join(problems)}. Give it without these "
            "options to go on with it, or another --output."
        )


def _value_of(plan: Plan, name: str) -> Any:  # noqa: ANN401 - any field
    return getattr(plan.target if hasattr(plan.target, name) else plan, name, None)


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
