"""A recipe is the complete input of a run: a start model, a seed and stages. Frozen and checked.

A stage turns a checkpoint folder into a checkpoint folder. What a kind of stage needs is its
settings class, listed in SETTINGS; the code that runs it is in training/stages/. What may be wrong
is in recipe_problems.py. Standard library only.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from stentor.errors import DataError, OptionError
from stentor.knobs import choose, unchecked_from_json
from training.recipe_problems import (
    STAGE_NAME,
    Problem,
    describe_problems,
    recipe_problems,
)
from training.recipe_types import SAMPLE_PROMPTS, Recipe, Stage
from training.settings import SETTINGS, ExpandSettings, PretrainSettings, Source

__all__ = [
    "SAMPLE_PROMPTS",
    "STAGE_NAME",
    "Problem",
    "Recipe",
    "Stage",
    "recipe_problems",
]


def without_skipped(recipe: Recipe) -> Recipe:
    """Return what a run is made of: the recipe without the stages that are to be skipped.

    Raises:
        OptionError: what is left is no recipe, such as one that replays a skipped stage.
    """
    return check_recipe(replace(recipe, stages=tuple(s for s in recipe.stages if not s.skip)))


def check_recipe(recipe: Recipe) -> Recipe:
    """Return `recipe`, or raise one OptionError that names every problem."""
    problems = recipe_problems(recipe)
    if problems:
        raise OptionError(describe_problems(recipe, problems))
    return recipe


def sources_of(recipe: Recipe, stage: Stage) -> tuple[Source, ...]:
    """Return a stage's sources with every replay replaced by the text it stands for.

    The weight of a replay is shared out by the weights that the text had in its own stage.
    """
    if isinstance(stage.settings, ExpandSettings):
        return ()
    stages = {item.name: item for item in recipe.stages}
    found: list[Source] = []
    for source in stage.settings.sources:
        if source.kind != "replay":
            found.append(source)
            continue
        settings = stages[source.name].settings
        assert not isinstance(settings, ExpandSettings)
        own = [other for other in settings.sources if other.kind != "replay"]
        total = sum(other.weight for other in own)
        found += [replace(o, weight=source.weight * o.weight / total) for o in own]
    return tuple(found)


def check_text(recipe: Recipe) -> None:
    """Make sure that every file a stage reads is there, before a run starts.

    Raises:
        DataError: a stage that reads files has none, or a path does not exist; names every one.
    """
    problems = []
    for stage, source in _sources(recipe):
        if source.kind != "files":
            continue
        lost = [path for path in source.paths if not Path(path).exists()]
        problems += [f"Stage {stage.name}: {path} does not exist." for path in lost]
        if not source.paths:
            problems.append(f"Stage {stage.name} reads your own text and has none.")
    if problems:
        raise DataError(
            f"{' '.join(problems)} Give text with --text STAGE=FILE or --corpora DIR, or upload it "
            "in the Training tab."
        )


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain JSON values."""
    return asdict(recipe)


def recipe_from_json(values: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe; unknown keys and kinds are refused by name."""
    stages = values.get("stages") if isinstance(values, Mapping) else None
    if not isinstance(stages, list | tuple):
        raise OptionError("A recipe is an object with a list of stages under 'stages'.")
    built = tuple(_stage_from_json(stage) for stage in stages)
    return check_recipe(unchecked_from_json(Recipe, {**values, "stages": built}))


def _stage_from_json(values: Mapping[str, Any]) -> Stage:
    if not isinstance(values, Mapping):
        raise OptionError(f"A stage is an object with named values; got {values!r:.80}.")
    settings_class = choose(SETTINGS, values.get("kind", ""), "kind of stage")
    settings = unchecked_from_json(settings_class, values.get("settings", {}))
    return unchecked_from_json(Stage, {**values, "settings": settings})


def with_text(
    recipe: Recipe,
    paths: tuple[str, ...],
    stage_name: str | None = None,
    weights: tuple[float, ...] = (),
) -> Recipe:
    """Return the recipe reading these files in one stage, or in every stage that reads text.

    The files take the place of the stage's own text: one mixture by `weights`, or without them
    one source that reads them in turn. What is read again of earlier stages keeps its share. Where
    files take the place of as many sources of files, each keeps the name of its source.
    """
    readers = {s.name: s for s in recipe.stages if not isinstance(s.settings, ExpandSettings)}
    if stage_name is not None:
        choose(readers, stage_name, "stage that reads text")

    def changed(stage: Stage) -> Stage:
        if isinstance(stage.settings, ExpandSettings) or stage_name not in (None, stage.name):
            return stage
        replays = tuple(s for s in stage.settings.sources if s.kind == "replay")
        before = [s for s in stage.settings.sources if s.kind != "replay"]
        own = sum(s.weight for s in before) or 1.0
        groups = [(path,) for path in paths] if weights else [paths]
        given = weights or (1.0,)
        names = [s.name for s in before if s.kind == "files"]
        if len(names) != len(groups):
            names = [Source().name] * len(groups)
        files = tuple(
            Source(kind="files", name=name, paths=group, weight=own * weight / sum(given))
            for name, group, weight in zip(names, groups, given, strict=True)
        )
        return replace(stage, settings=replace(stage.settings, sources=(*files, *replays)))

    return replace(recipe, stages=tuple(changed(stage) for stage in recipe.stages))


def with_corpora(recipe: Recipe, folder: str, entries: Collection[str]) -> Recipe:
    """Return the recipe with a text for every source of files that has none yet.

    `entries`: the names of the texts in `folder`, files and folders. A source called N takes the
    one whose stem holds N as a word: `stage1_general.parquet` for `general`.

    Raises:
        DataError: no text or several texts fit a source, or no source waits for one.
    """
    waiting = {source.name for _, source in _sources(recipe) if _waits_for_text(source)}
    if not waiting:
        raise DataError(
            f"--corpora {folder}: no stage of recipe {recipe.name} waits for text of your own, so "
            "nothing of it would be read. Leave it out, or give text with --text STAGE=FILE."
        )
    found = {name: str(Path(folder) / _entry_for(name, folder, entries)) for name in waiting}

    def filled(source: Source) -> Source:
        is_waiting = _waits_for_text(source)
        return replace(source, paths=(found[source.name],)) if is_waiting else source

    def changed(stage: Stage) -> Stage:
        if isinstance(stage.settings, ExpandSettings):
            return stage
        sources = tuple(map(filled, stage.settings.sources))
        return replace(stage, settings=replace(stage.settings, sources=sources))

    return replace(recipe, stages=tuple(map(changed, recipe.stages)))


def _sources(recipe: Recipe) -> Iterator[tuple[Stage, Source]]:
    for stage in recipe.stages:
        if not isinstance(stage.settings, ExpandSettings):
            yield from ((stage, source) for source in stage.settings.sources)


def _waits_for_text(source: Source) -> bool:
    return source.kind == "files" and not source.paths


def _entry_for(name: str, folder: str, entries: Collection[str]) -> str:
    fitting = [entry for entry in entries if f" {_words(name)} " in f" {_words(Path(entry).stem)} "]
    if len(fitting) == 1:
        return fitting[0]
    there = ", ".join(sorted(entries)) or "nothing"
    which = f"{len(fitting)} entries fit" if fitting else "no entry fits"
    raise DataError(
        f"--corpora {folder}: {which} the source {name!r:.80}. Have one file or folder with the "
        f"word {name!r:.80} in its name, such as stage1_{name}.parquet; there is: {there}."
    )


def _words(text: str) -> str:
    """Return the words of a name in small letters, parted by one space."""
    return " ".join(re.split(r"[\W\d_]+", text.lower())).strip()


def with_options(recipe: Recipe, **values: object) -> Recipe:
    """Return the recipe with some of its own options changed, such as the seed."""
    return check_recipe(replace(recipe, **values))  # type: ignore[arg-type]


def with_budget(recipe: Recipe, budget: str) -> Recipe:
    """Return the recipe with `steps` or `tokens` deciding the length of every training stage."""
    for stage in recipe.stages:
        if isinstance(stage.settings, PretrainSettings):
            recipe = with_settings(recipe, stage.name, budget=budget)
    return recipe


def with_settings(recipe: Recipe, stage_name: str, **values: object) -> Recipe:
    """Return the recipe with some settings of one stage changed."""
    return with_stages(recipe, {stage_name: values})


def with_stages(
    recipe: Recipe,
    changes: Mapping[str, Mapping[str, object]],
    skip: Collection[str] = (),
) -> Recipe:
    """Return the recipe with settings of several stages changed and others skipped.

    Checked once at the end: values that need each other may come from any stage.
    """
    names = {stage.name: stage for stage in recipe.stages}
    for name in (*changes, *skip):
        choose(names, name, "stage")

    def changed(stage: Stage) -> Stage:
        merged = {**asdict(stage.settings), **changes.get(stage.name, {})}
        is_skipped = stage.skip or stage.name in skip
        return _stage_from_json({**asdict(stage), "settings": merged, "skip": is_skipped})

    return check_recipe(replace(recipe, stages=tuple(map(changed, recipe.stages))))
