"""The flags that choose a recipe, by name or by file, and change it. Standard library only.

A flag for one stage is `STAGE=VALUE`; what it may set is declared in training/settings.py.
"""

import argparse
import json
from pathlib import Path

from stentor.errors import DataError, OptionError
from stentor.knobs import choose, from_json
from training.alarm_settings import AlarmSettings
from training.recipe import (
    STAGE_NAME,
    Recipe,
    recipe_from_json,
    with_budget,
    with_corpora,
    with_options,
    with_stages,
    with_text,
)
from training.recipes import find_recipe

RECIPE_FILE = ".json"
ALARMS = "alarms"  # in place of a stage's name: the thresholds of the run's alarms
MAX_RECIPE_BYTES = 1_000_000
TEXT_ENDINGS = (".txt", ".jsonl", ".parquet")  # of files that a source can read


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
        "--corpora",
        type=Path,
        metavar="DIR",
        help="take the text of every stage that waits for your own from this folder: one file or "
        "folder for each source, with its name in its own, such as stage1_general.parquet",
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
        help="change one option of a stage, such as general.learning_rate=1e-4, or of the alarms, "
        "such as alarms.plateau_steps=500",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="STAGE",
        help="leave a stage out of the run; may be given several times",
    )
    parser.add_argument(
        "--budget", choices=("steps", "tokens"), help="which of a stage's two lengths counts"
    )
    parser.add_argument("--seed", type=int, help="seed of data order and new weights")
    parser.add_argument(
        "--processes", type=int, help="how many train together (default: one per GPU, else one)"
    )
    parser.add_argument("--devices", help="GPUs to train on, such as 0 or 0,1 (default: all)")


def chosen_recipe(parsed: argparse.Namespace) -> Recipe:
    """Return the named recipe with the flags applied; skipped stages are still in it.

    Raises:
        OptionError: a flag that is not of its form, names no stage or option, or is out of range.
        DataError: a file that is no recipe, or a folder of corpora that does not fit it.
    """
    recipe = _with_texts(open_recipe(parsed.name), parsed.text, _weights(parsed.mix))
    if parsed.corpora is not None:
        folder = parsed.corpora.resolve()
        recipe = with_corpora(recipe, str(folder), _texts_in(folder))
    changes = _changes(recipe, parsed.changes)
    alarms = changes.pop(ALARMS, None)
    if alarms:
        recipe = with_options(recipe, alarms=from_json(AlarmSettings, vars(recipe.alarms) | alarms))
    if changes or parsed.skip:
        recipe = with_stages(recipe, changes, parsed.skip)
    if parsed.budget:
        recipe = with_budget(recipe, parsed.budget)
    flags = {
        "seed": parsed.seed,
        "num_processes": parsed.processes,
        "devices": parsed.devices,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return with_options(recipe, **given) if given else recipe


def open_recipe(name: str) -> Recipe:
    """Return the recipe of a name in RECIPES, or of a file whose name ends in .json.

    Raises:
        OptionError: no such recipe, or the file holds none.
        DataError: the file cannot be read, is too large or is no JSON.
    """
    if not name.endswith(RECIPE_FILE):
        return find_recipe(name)
    try:
        with Path(name).open("rb") as stream:
            content = stream.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        raise DataError(f"The recipe file {name!r:.200} cannot be read: {error}") from error
    if len(content) > MAX_RECIPE_BYTES:
        raise DataError(f"{name!r:.200} has more than {MAX_RECIPE_BYTES:,} bytes; no recipe has.")
    try:
        values = json.loads(content)
    except ValueError as error:
        raise DataError(f"{name!r:.200} is no JSON: {error}") from error
    return recipe_from_json(values)


def refuse_changes(parsed: argparse.Namespace) -> None:
    """Refuse flags that change a recipe beside a run, whose recipe is settled.

    Raises:
        OptionError: a flag of `add_recipe_flags` was given.
    """
    given = (parsed.text, parsed.mix, parsed.changes, parsed.skip)
    single = {parsed.corpora, parsed.budget, parsed.seed, parsed.processes, parsed.devices}
    if any(given) or single != {None}:
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


def _texts_in(folder: Path) -> list[str]:
    """Return the names of the folders and of the files of a known ending in a folder."""
    try:
        return [
            path.name
            for path in folder.iterdir()
            if not path.name.startswith(".")
            and (path.is_dir() or path.suffix.lower() in TEXT_ENDINGS)
        ]
    except OSError as error:
        raise DataError(
            f"--corpora {folder} cannot be read: {error.strerror}. Give a folder that holds a file "
            "or folder of text for each source."
        ) from error


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


def _changes(recipe: Recipe, changes: list[str]) -> dict[str, dict[str, object]]:
    """Return `STAGE.OPTION=VALUE` by stage and option; a value is a JSON value, or else text."""
    settings: dict[str, object] = {ALARMS: recipe.alarms}
    settings |= {stage.name: stage.settings for stage in recipe.stages}
    found: dict[str, dict[str, object]] = {}
    for change in changes:
        place, separator, text = change.partition("=")
        stage_name, _, option = place.partition(".")
        if not separator or not option:
            raise OptionError(f"--set {change!r:.80}: write it like general.learning_rate=1e-4.")
        known = choose(settings, stage_name, "stage")
        choose(vars(known), option, f"option of {stage_name}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found.setdefault(stage_name, {})[option] = value
    return found
