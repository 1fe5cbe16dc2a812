"""The manifest of a packed pair: every file's hash, the recipe that rebuilds it, and its figures.

It is written last, so a folder with a manifest is complete. SHA-256 rather than the checkpoints'
own digests: it is what other tools check. Knows no weights.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stentor.runs import write_json
from training.alarm_settings import AlarmSettings
from training.pair.measure import TextLoss, WindowedText
from training.pair.origin import Origin
from training.pair.repetition import repetition_settings
from training.recipe import Recipe, Stage, recipe_to_json
from training.recipes import RECIPES, find_recipe
from training.settings import ExpandSettings

MANIFEST_FILE = "manifest.json"
RECIPE_FILE = "recipe.json"
Paths = tuple[str, ...]


@dataclass(frozen=True)
class CheckpointFigures:
    """One checkpoint on every held-out text. `tokens`: trained on in all until there."""

    name: str
    stage: str
    parameters: int
    tokens: int
    texts: Mapping[str, TextLoss]


@dataclass(frozen=True)
class PairFigures:
    """What was measured of a pair, the checkpoints in the order of training.

    `repetition`: by model and by variant of the settings, the share of continuations that repeat
    themselves. `engine`: what they were generated with.
    """

    checkpoints: tuple[CheckpointFigures, ...]
    repetition: Mapping[str, Mapping[str, float]]
    held_out: Mapping[str, WindowedText]
    engine: Mapping[str, str]


def write_manifest(folder: Path, figures: PairFigures, origin: Origin) -> None:
    """Write the manifest of all files that are in `folder` now, the last of them.

    A recipe that no name stands for is written beside it, waiting for its text.

    Raises:
        OSError: a file cannot be read, or the manifest not be written.
    """
    if not is_named(origin.recipe):
        recipe = _without_text(without_folders(origin.recipe))
        write_json(folder / RECIPE_FILE, recipe_to_json(recipe))
    values = {
        "files": {name: _facts(folder / name) for name in _file_names(folder)},
        "command": rebuild_command(origin.recipe),
        "recipe": recipe_to_json(without_folders(origin.recipe)),
        "run": origin.run,
        "versions": dict(origin.versions),
        "machine": origin.machine,
        "text_digests": dict(origin.text_digests),
        "checkpoints": [_checkpoint_to_json(checkpoint) for checkpoint in figures.checkpoints],
        "repetition": figures.repetition,
        "repetition_settings": repetition_settings(),
        "engine": figures.engine,
        "held_out": {
            name: {
                "documents": text.num_documents,
                "windows": len(text.windows),
                "bytes": text.num_bytes,
            }
            for name, text in figures.held_out.items()
        },
    }
    write_json(folder / MANIFEST_FILE, values)


def check_manifest(folder: Path) -> list[str]:
    """Return what differs between a folder and its manifest, in words; nothing: it is whole.

    Every file that the manifest names must be there byte for byte, and no other one beside it in
    the folders of the models. What lies beside the manifest itself is not looked at.
    """
    try:
        files = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (item["bytes"], item["sha256"]) for name, item in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / MANIFEST_FILE} cannot be read ({error!r:.200})."]
    models = {name.partition("/")[0] for name in expected if "/" in name}
    found = {name for name in _file_names(folder) if name.partition("/")[0] in models}
    problems = [f"{name} is not in the manifest." for name in sorted(found - expected.keys())]
    for name, (num_bytes, digest) in expected.items():
        if not (folder / name).is_file():
            problems.append(f"{name} is missing.")
            continue
        facts = _facts(folder / name)
        if facts["bytes"] != num_bytes:
            problems.append(f"{name} has {facts['bytes']:,} bytes; the manifest says {num_bytes}.")
        elif facts["sha256"] != digest:
            problems.append(f"{name} is not what was packed: its SHA-256 is {facts['sha256']}.")
    return problems


def rebuild_command(recipe: Recipe) -> str:
    """Return the command that makes the pair again: by name, where the recipe is the named one.

    Else by the recipe.json beside the manifest. Which machine did it is no matter.
    """
    name = recipe.name if is_named(recipe) else RECIPE_FILE
    return f"python -m training run {name} --corpora DIR"


def is_named(recipe: Recipe) -> bool:
    """Tell whether the models of a recipe are those that its name stands for, given its text."""
    return recipe.name in RECIPES and _essence(recipe) == _essence(find_recipe(recipe.name))


def _essence(recipe: Recipe) -> Recipe:
    """Return what of a recipe decides the weights, without where its text is."""
    return replace(
        _without_text(recipe),
        title="",
        purpose="",
        notes=(),
        sample_prompts=(),
        alarms=AlarmSettings(),
        num_threads=None,
        num_processes=None,
        devices="",
    )


def _without_text(recipe: Recipe) -> Recipe:
    return replace(recipe, stages=tuple(_with_paths(s, lambda _: ()) for s in recipe.stages))


def without_folders(recipe: Recipe) -> Recipe:
    """Return a recipe that names files without their folders, which are one machine's."""
    start = recipe.start
    if start and "/" in start and not start.startswith("run:"):
        start = Path(start).name
    stages = tuple(_with_paths(stage, _names_of) for stage in recipe.stages)
    return replace(recipe, start=start, stages=stages)


def _names_of(paths: Paths) -> Paths:
    return tuple(Path(path).name for path in paths)


def _with_paths(stage: Stage, change: Callable[[Paths], Paths]) -> Stage:
    if isinstance(stage.settings, ExpandSettings):
        return stage
    sources = tuple(
        replace(source, paths=change(source.paths)) for source in stage.settings.sources
    )
    return replace(stage, settings=replace(stage.settings, sources=sources))


def _checkpoint_to_json(checkpoint: CheckpointFigures) -> dict[str, Any]:
    values = asdict(checkpoint)
    texts: dict[str, dict[str, float]] = values.pop("texts")
    return {
        **values,
        "bits_per_byte": {name: text["bits_per_byte"] for name, text in texts.items()},
        "loss": {name: text["loss"] for name, text in texts.items()},
    }


def _file_names(folder: Path) -> list[str]:
    """Return every file below a folder but its manifest, relative to it."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MANIFEST_FILE
    )


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
