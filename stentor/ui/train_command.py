"""The command line that starts what the planner shows: a named recipe with flags, or a file.

Flags are written down, applied again and compared: whatever they cannot say goes into a file. The
flags themselves are declared in training/recipe_flags.py. Knows no Gradio.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.home import home
from stentor.runs import write_json
from stentor.ui.train_allowed import must_be_allowed
from training.recipe import (
    Recipe,
    Stage,
    recipe_to_json,
    with_budget,
    with_options,
    with_stages,
    with_text,
)
from training.recipes import RECIPES, find_recipe
from training.settings import ExpandSettings, PretrainSettings

COMMAND = ("python", "-m", "training", "run")
# Enough of a SHA-256 that two plans of one name do not meet.
HASH_LETTERS = 10


@dataclass(frozen=True)
class Command:
    """`file`: where the recipe has to be saved before the command works, or None."""

    text: str
    file: Path | None = None


def recipes_folder() -> Path:
    """Return the folder of the recipes that commands name."""
    return home() / "recipes"


def recipe_digest(recipe: Recipe) -> str:
    """Return a few letters that differ for different recipes."""
    text = json.dumps(recipe_to_json(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LETTERS]


def command_of(recipe: Recipe) -> Command:
    """Return the command that starts exactly this recipe."""
    words = flags_of(recipe)
    if words is not None:
        return Command(shlex.join([*COMMAND, recipe.name, *words]))
    file = recipes_folder() / f"{file_stem(recipe)}-{recipe_digest(recipe)}.json"
    return Command(shlex.join([*COMMAND, str(file)]), file)


def file_stem(recipe: Recipe) -> str:
    """Return a recipe's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", recipe.name.lower()).strip("-")[:32] or "recipe"


def save_recipe(recipe: Recipe, refusal: str | None) -> Command:
    """Write the file that the command names, if it names one; return the command.

    Raises:
        RunError: nothing may be written here.
    """
    must_be_allowed(refusal)
    command = command_of(recipe)
    if command.file is not None:
        command.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(command.file, recipe_to_json(recipe))
    return command


def flags_of(recipe: Recipe) -> list[str] | None:
    """Return the flags that turn the recipe of this name into `recipe`, or None: flags cannot."""
    if recipe.name not in RECIPES:
        return None
    base = find_recipe(recipe.name)
    if [(s.name, s.kind) for s in base.stages] != [(s.name, s.kind) for s in recipe.stages]:
        return None
    try:
        words, made = _apply_flags(base, recipe)
    except OptionError:  # what flags can say of it is no recipe
        return None
    return words if made == recipe else None


def _apply_flags(base: Recipe, recipe: Recipe) -> tuple[list[str], Recipe]:
    """Return flags that bring `base` as near to `recipe` as flags can, and what they make."""
    words: list[str] = []
    made = base
    for old, new in zip(base.stages, recipe.stages, strict=True):
        texts, made = _text_flags(made, old, new)
        words += texts
    changes, skip = _changes(made, recipe), _newly_skipped(base, recipe)
    budget = _common_budget(changes, made)
    if budget:
        for changed in changes.values():
            changed.pop("budget", None)
    made = with_stages(made, changes, skip)
    made = with_budget(made, budget) if budget else made
    words += [f for name, values in changes.items() for f in _set_flags(name, values)]
    words += [word for name in skip for word in ("--skip", name)]
    words += ["--budget", budget] if budget else []
    options = _option_flags(base, recipe)
    made = with_options(made, **{name: value for name, _, value in options})
    return [*words, *(word for _, f, value in options for word in (f, str(value)))], made


def _text_flags(recipe: Recipe, old: Stage, new: Stage) -> tuple[list[str], Recipe]:
    """Return the flags for the files that a stage reads instead of its own text, if there are."""
    if isinstance(new.settings, ExpandSettings) or old.settings == new.settings:
        return [], recipe
    assert not isinstance(old.settings, ExpandSettings)
    own = [source for source in new.settings.sources if source.kind != "replay"]
    is_files = all(source.kind == "files" and source.paths for source in own)
    if new.settings.sources == old.settings.sources or not own or not is_files:
        return [], recipe
    paths = tuple(path for source in own for path in source.paths)
    weights: tuple[float, ...] = ()
    if len(own) > 1:
        weights = tuple(source.weight for source in own)
        if len(paths) != len(own):
            return [], recipe
    words = [word for path in paths for word in ("--text", f"{new.name}={path}")]
    if weights:
        words += ["--mix", f"{new.name}={','.join(f'{weight!r}' for weight in weights)}"]
    if not all(_is_resolved(path) for path in paths):
        return [], recipe
    return words, with_text(recipe, paths, new.name, weights)


def _is_resolved(path: str) -> bool:
    """Tell whether the command line, which resolves paths, keeps this one."""
    return str(Path(path).resolve()) == path


def _changes(made: Recipe, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the options of each stage that differ; sources are no matter of a flag."""
    found = {}
    for old, new in zip(made.stages, recipe.stages, strict=True):
        before, after = vars(old.settings), vars(new.settings)
        found[new.name] = {
            name: value
            for name, value in after.items()
            if name != "sources" and before[name] != value
        }
    return {name: values for name, values in found.items() if values}


def _newly_skipped(base: Recipe, recipe: Recipe) -> list[str]:
    pairs = zip(base.stages, recipe.stages, strict=True)
    return [new.name for old, new in pairs if new.skip and not old.skip]


def _common_budget(changes: dict[str, dict[str, Any]], made: Recipe) -> str | None:
    """Return the budget that every training stage is changed to, or None."""
    training = [s.name for s in made.stages if isinstance(s.settings, PretrainSettings)]
    budgets = {changes.get(name, {}).get("budget") for name in training}
    return str(budgets.pop()) if len(budgets) == 1 and budgets != {None} else None


def _set_flags(stage: str, values: dict[str, Any]) -> Iterable[str]:
    for name, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield from ("--set", f"{stage}.{name}={text}")


def _option_flags(base: Recipe, recipe: Recipe) -> list[tuple[str, str, Any]]:
    """Return the options of the recipe itself that a flag can change: name, flag and value."""
    flags = {"seed": "--seed", "num_processes": "--processes", "devices": "--devices"}
    return [
        (name, flag, getattr(recipe, name))
        for name, flag in flags.items()
        if getattr(recipe, name) != getattr(base, name) and getattr(recipe, name) is not None
    ]
