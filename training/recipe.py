"""A recipe is the complete input of a run: a start model, a seed and stages. Frozen and checked.

A stage turns a checkpoint folder into a checkpoint folder. What a kind of stage needs is its
settings class, listed in SETTINGS; the code that runs it is in training/stages/. Standard library
only.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stentor.errors import DataError, OptionError
from stentor.knobs import check, choose, knob, unchecked_from_json
from training.alarm_settings import AlarmSettings
from training.settings import (
    SETTINGS,
    ExpandSettings,
    PretrainSettings,
    Source,
    StageSettings,
)

STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
DEVICES = re.compile(r"(\d{1,2}(,\d{1,2})*)?")
# What every checkpoint continues, always from the same seed: a story, a fact, an explanation.
SAMPLE_PROMPTS = ("One morning the", "The river is", "Water boils when", "She opened the door and")
MAX_SAMPLE_PROMPTS, MAX_SAMPLE_CHARACTERS = 8, 300


@dataclass(frozen=True)
class Stage:
    """One step of a recipe; `name` also names its checkpoints."""

    name: str
    kind: str
    title: str
    settings: StageSettings
    skip: bool = False  # kept in a plan and left out of a run, see without_skipped

    def total_steps(self) -> int:
        """Return the optimizer steps of this stage (0 where nothing is trained)."""
        return self.settings.total_steps() if isinstance(self.settings, PretrainSettings) else 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run goes. `start`: a model reference, or None: from nothing."""

    name: str
    title: str
    purpose: str
    start: str | None
    stages: tuple[Stage, ...]
    seed: int = knob(0, low=0, high=2**63 - 1, step=1, help="Of data order and new weights")
    num_threads: int | None = knob(None, low=1, high=1024, step=1, help="Nothing: all cores")
    num_processes: int | None = knob(
        None, low=1, high=64, step=1, help="That train together; nothing: one per GPU, else one"
    )
    devices: str = knob("", help="GPUs to train on, such as 0 or 0,1; nothing: all of them")
    sample_prompts: tuple[str, ...] = SAMPLE_PROMPTS
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    notes: tuple[str, ...] = ()

    def device_numbers(self) -> tuple[int, ...] | None:
        """Return the GPUs that `devices` names; None: whatever there is."""
        return tuple(int(part) for part in self.devices.split(",")) if self.devices else None


def without_skipped(recipe: Recipe) -> Recipe:
    """Return what a run is made of: the recipe without the stages that are to be skipped.

    Raises:
        OptionError: what is left is no recipe, such as one that replays a skipped stage.
    """
    return check_recipe(replace(recipe, stages=tuple(s for s in recipe.stages if not s.skip)))


def check_recipe(recipe: Recipe) -> Recipe:
    """Return `recipe`, or raise one OptionError that names every problem."""
    problems = _problems_of(recipe) + _problems_of(recipe.alarms) + _sampling_problems(recipe)
    names = [stage.name for stage in recipe.stages]
    if not names:
        problems.append("A recipe needs at least one stage.")
    for stage in recipe.stages:
        if names.count(stage.name) > 1 or not STAGE_NAME.fullmatch(str(stage.name)):
            problems.append(f"{stage.name!r} must be a unique name of small letters and digits.")
        problems += [f"Stage {stage.name}: {problem}" for problem in _stage_problems(stage)]
    if not problems:
        problems += _replay_problems(recipe) + _carry_problems(recipe)
    if recipe.stages and (recipe.start is None) != (recipe.stages[0].kind == "create"):
        problems.append("A recipe starts from a model, or its first stage creates one.")
    if problems:
        raise OptionError(" ".join(problems))
    return recipe


def _sampling_problems(recipe: Recipe) -> list[str]:
    """Return what is wrong with the devices and the prompts of a recipe."""
    problems = []
    if isinstance(recipe.devices, str) and not DEVICES.fullmatch(recipe.devices):
        problems.append(f"Devices must be like 0 or 0,1, or nothing; got {recipe.devices!r:.80}.")
    prompts = recipe.sample_prompts if isinstance(recipe.sample_prompts, tuple) else ()
    lengths = [len(prompt) for prompt in prompts if isinstance(prompt, str)]
    if len(prompts) > MAX_SAMPLE_PROMPTS or max(lengths, default=0) > MAX_SAMPLE_CHARACTERS:
        problems.append(
            f"At most {MAX_SAMPLE_PROMPTS} sample prompts of {MAX_SAMPLE_CHARACTERS} characters "
            f"each; got {len(prompts)} of at most {max(lengths, default=0):,}."
        )
    if len(lengths) == len(prompts) and not all(prompt.strip() for prompt in prompts):
        problems.append("A sample prompt is empty. Write a few words, or remove it.")
    return problems


def _stage_problems(stage: Stage) -> list[str]:
    settings = stage.settings
    problems = _problems_of(stage, settings)
    if not problems and not isinstance(settings, ExpandSettings):
        problems = _problems_of(*settings.sources)
    if problems:
        return problems
    if isinstance(settings, PretrainSettings):
        if settings.warmup_fraction + settings.decay_fraction > 1 and settings.schedule == "wsd":
            problems.append("Warm-up fraction and decay fraction are more than the whole stage.")
    elif settings.hidden_size % (2 * settings.num_heads):
        problems.append(
            f"Hidden size {settings.hidden_size} must give each of {settings.num_heads} heads an "
            "even number of channels (rotary embedding turns pairs)."
        )
    return problems


def _replay_problems(recipe: Recipe) -> list[str]:
    """Return what is wrong with sources that read an earlier stage's text again."""
    problems = []
    earlier: list[str] = []
    for stage in recipe.stages:
        if isinstance(stage.settings, ExpandSettings):
            continue
        names = [s.name for s in stage.settings.sources if s.kind == "replay"]
        problems += [
            f"Stage {stage.name}: replay of {name!r}, which is no earlier stage with text of its "
            f"own; there is: {', '.join(earlier) or 'none'}."
            for name in names
            if name not in earlier
        ]
        if names and len(names) == len(stage.settings.sources):
            problems.append(f"Stage {stage.name} has no text of its own.")
        elif isinstance(stage.settings, PretrainSettings):
            earlier.append(stage.name)
    return problems


def _carry_problems(recipe: Recipe) -> list[str]:
    """Return which stages should go on with moments that no stage before them leaves."""
    before = [None, *recipe.stages]
    return [
        f"Stage {stage.name}: carry_optimizer needs a training stage right before it."
        for stage, previous in zip(recipe.stages, before, strict=False)
        if isinstance(stage.settings, PretrainSettings)
        and stage.settings.carry_optimizer
        and (previous is None or not isinstance(previous.settings, PretrainSettings))
    ]


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


def _problems_of(*parts: Recipe | Stage | StageSettings | Source | AlarmSettings) -> list[str]:
    """Return what `check` says of each part."""
    problems = []
    for part in parts:
        try:
            check(part)
        except OptionError as error:
            problems.append(str(error))
    return problems


def check_text(recipe: Recipe) -> None:
    """Make sure that every file a stage reads is there, before a run starts.

    Raises:
        DataError: a stage that reads files has none, or a path does not exist; names every one.
    """
    problems = []
    for stage in recipe.stages:
        if isinstance(stage.settings, ExpandSettings):
            continue
        for source in stage.settings.sources:
            if source.kind != "files":
                continue
            lost = [path for path in source.paths if not Path(path).exists()]
            problems += [f"Stage {stage.name}: {path} does not exist." for path in lost]
            if not source.paths:
                problems.append(f"Stage {stage.name} reads your own text and has none.")
    if problems:
        raise DataError(
            f"{' '.join(problems)} Give text with --text STAGE=FILE, or upload it in the "
            "Training tab."
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
    one source that reads them in turn. What is read again of earlier stages keeps its share.
    """
    readers = {s.name: s for s in recipe.stages if not isinstance(s.settings, ExpandSettings)}
    if stage_name is not None:
        choose(readers, stage_name, "stage that reads text")

    def changed(stage: Stage) -> Stage:
        if isinstance(stage.settings, ExpandSettings) or stage_name not in (None, stage.name):
            return stage
        replays = tuple(s for s in stage.settings.sources if s.kind == "replay")
        own = sum(s.weight for s in stage.settings.sources if s.kind != "replay") or 1.0
        groups = [(path,) for path in paths] if weights else [paths]
        given = weights or (1.0,)
        files = tuple(
            Source(kind="files", paths=group, weight=own * weight / sum(given))
            for group, weight in zip(groups, given, strict=True)
        )
        return replace(stage, settings=replace(stage.settings, sources=(*files, *replays)))

    return replace(recipe, stages=tuple(changed(stage) for stage in recipe.stages))


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
    stages = {stage.name: stage for stage in recipe.stages}
    stage = choose(stages, stage_name, "stage")
    merged = {**asdict(stage.settings), **values}
    changed = _stage_from_json({**asdict(stage), "settings": merged})
    return check_recipe(
        replace(
            recipe,
            stages=tuple(changed if item.name == stage_name else item for item in recipe.stages),
        )
    )
