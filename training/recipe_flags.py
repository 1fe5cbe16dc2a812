"""The flags that choose a recipe and change it. Standard library only.

A flag for one stage is `STAGE=VALUE`; what it may set is declared in training/settings.py.
"""

import argparse
import json
from pathlib import Path

from stentor.errors import OptionError
from stentor.knobs import choose
from training.recipe import (
    STAGE_NAME,
    Recipe,
    with_budget,
    with_options,
    with_settings,
    with_text,
)
from training.recipes import find_recipe


def add_recipe_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `chosen_recipe` reads, besides the recipe's name."""
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="[STAGE=]FILE",
        help="train on this file or folder, in one stage or in all; may be given several times",
    )
    parser.add_argument(
        "--mix",
        action="append",
        default=[],
        metavar="STAGE=WEIGHT,WEIGHT",
        help="shares of the texts given for a stage, in their order (default: documents in turn)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="STAGE.OPTION=VALUE",
        help="change one option of a stage, such as general.learning_rate=1e-4",
    )
    parser.add_argument(
        "--budget", choices=("steps", "tokens"), help="which of a stage's two lengths counts"
    )
    parser.add_argument("--seed", type=int, help="seed of data order and new weights")
    parser.add_argument(
        "--processes", type=int, help="how many train together (default: one per GPU, else one)"
    )


def chosen_recipe(parsed: argparse.Namespace) -> Recipe:
    """Return the named recipe with the flags applied.

    Raises:
        OptionError: a flag that is not of its form, names no stage or option, or is out of range.
    """
    recipe = _with_texts(find_recipe(parsed.name), parsed.text, _weights(parsed.mix))
    for change in parsed.changes:
        recipe = _with_change(recipe, change)
    if parsed.budget:
        recipe = with_budget(recipe, parsed.budget)
    if parsed.seed is not None:
        recipe = with_options(recipe, seed=parsed.seed)
    if parsed.processes is not None:
        recipe = with_options(recipe, num_processes=parsed.processes)
    return recipe


def refuse_changes(parsed: argparse.Namespace) -> None:
    """Refuse flags that change a recipe beside a run, whose recipe is settled.

    Raises:
        OptionError: a flag of `add_recipe_flags` was given.
    """
    given = (parsed.text, parsed.mix, parsed.changes)
    if any(given) or {parsed.budget, parsed.seed, parsed.processes} != {None}:
        raise OptionError(
            f"{parsed.name!r:.80} is a run; its recipe cannot be changed. Give a recipe's name to "
            "change that one."
        )


def _with_texts(recipe: Recipe, texts: list[str], weights: dict[str, tuple[float, ...]]) -> Recipe:
    by_stage: dict[str | None, list[str]] = {}
    for text in texts:
        stage, separator, path = text.partition("=")
        is_for_stage = separator and STAGE_NAME.fullmatch(stage)  # else `=` is part of the path
        name, path = (stage, path) if is_for_stage else (None, text)
        by_stage.setdefault(name, []).append(str(Path(path).resolve()))
    for stage in weights:
        num_texts, num_weights = len(by_stage.get(stage, ())), len(weights[stage])
        if num_texts != num_weights:
            raise OptionError(
                f"--mix {stage}: {num_weights} weights for {num_texts} texts. Give one weight for "
                f"each --text {stage}=FILE."
            )
    for name, paths in sorted(by_stage.items(), key=lambda item: item[0] or ""):
        recipe = with_text(recipe, tuple(paths), name, weights.get(name or "", ()))
    return recipe


def _weights(mixes: list[str]) -> dict[str, tuple[float, ...]]:
    """Return the weights of each stage from `STAGE=75,25`."""
    found = {}
    for mix in mixes:
        stage, _, numbers = mix.partition("=")
        try:
            found[stage] = tuple(float(number) for number in numbers.split(","))
        except ValueError as error:
            raise OptionError(
                f"--mix {mix!r:.80}: write it like narrative=75,25, a number for each text."
            ) from error
        if not all(0 < weight < float("inf") for weight in found[stage]):
            raise OptionError(f"--mix {mix!r:.80}: every weight must be above 0.")
    return found


def _with_change(recipe: Recipe, change: str) -> Recipe:
    """Apply `STAGE.OPTION=VALUE`; the value is a JSON value, or else text."""
    place, separator, text = change.partition("=")
    stage_name, _, option = place.partition(".")
    if not separator or not option:
        raise OptionError(f"--set {change!r:.80}: write it like general.learning_rate=1e-4.")
    stages = {stage.name: stage for stage in recipe.stages}
    settings = choose(stages, stage_name, "stage").settings
    choose(vars(settings), option, f"option of stage {stage_name}")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    return with_settings(recipe, stage_name, **{option: value})
