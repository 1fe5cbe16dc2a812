"""Everything that is wrong with a recipe, at once, and each with the place that it belongs to.

A form shows a problem at its field, a command prints them in a row. Standard library only.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from stentor.errors import OptionError
from stentor.knobs import check
from training.alarm_settings import AlarmSettings
from training.recipe_types import Recipe, Stage
from training.settings import ExpandSettings, PretrainSettings, Source, StageSettings

STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
DEVICES = re.compile(r"(\d{1,2}(,\d{1,2})*)?")
MAX_SAMPLE_PROMPTS, MAX_SAMPLE_CHARACTERS = 8, 300
# What is right of each kind, so that one value at a time can be judged.
GOOD_STAGE = Stage("stage", "expand", "Stage", ExpandSettings())
GOOD_RECIPE = Recipe("recipe", "Recipe", "", None, ())
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """`place`: where in the JSON of the recipe, such as ("stages", 1, "settings", "num_steps")."""

    place: Place
    message: str

    def stage(self) -> int | None:
        """Return the number of the stage that it belongs to, counted from 0, or None."""
        is_stage = len(self.place) > 1 and self.place[0] == "stages"
        return int(self.place[1]) if is_stage else None


def recipe_problems(recipe: Recipe) -> list[Problem]:
    """Return every problem of a recipe; of stages that are skipped only those of their values."""
    problems = _value_problems(recipe, GOOD_RECIPE, ())
    problems += _value_problems(recipe.alarms, AlarmSettings(), ("alarms",))
    problems += _sampling_problems(recipe)
    names = [stage.name for stage in recipe.stages]
    for place, stage in enumerate(recipe.stages):
        is_name = STAGE_NAME.fullmatch(str(stage.name)) and names.count(stage.name) == 1
        if isinstance(stage.name, str) and not is_name:
            message = f"{stage.name!r:.80} must be a unique name of small letters and digits."
            problems.append(Problem(("stages", place, "name"), message))
        problems += stage_problems(stage, ("stages", place))
    active = [(place, stage) for place, stage in enumerate(recipe.stages) if not stage.skip]
    if not active:
        problems.append(Problem(("stages",), "A recipe needs at least one stage."))
    if not problems:
        problems += [*_replay_problems(active), *_carry_problems(active)]
        problems += _pair_problems(recipe.pair, active)
    if active and (recipe.start is None) != (active[0][1].kind == "create"):
        message = "A recipe starts from a model, or its first stage creates one."
        problems.append(Problem(("start",), message))
    return problems


def describe_problems(recipe: Recipe, problems: list[Problem]) -> str:
    """Return the problems as one text; each stage is named where its problems begin."""
    words, told = [], None
    for problem in problems:
        place = problem.stage()
        is_new = place is not None and place != told
        words.append(f"Stage {recipe.stages[place or 0].name}: " if is_new else "")
        words[-1] += problem.message
        told = place
    return " ".join(words)


def stage_problems(stage: Stage, place: Place) -> list[Problem]:
    """Return what is wrong with the values of one stage; `place` is the stage's own."""
    settings = stage.settings
    inside = (*place, "settings")
    problems = _value_problems(stage, GOOD_STAGE, place)
    problems += _value_problems(settings, type(settings)(), inside)
    if not problems and not isinstance(settings, ExpandSettings):
        for number, source in enumerate(settings.sources):
            problems += _value_problems(source, Source(), (*inside, "sources", number))
    return problems or _together_problems(settings, inside)


def _together_problems(settings: StageSettings, place: Place) -> list[Problem]:
    """Return which values are right alone and wrong beside each other."""
    if isinstance(settings, PretrainSettings):
        if settings.warmup_fraction + settings.decay_fraction > 1 and settings.schedule == "wsd":
            message = "Warm-up fraction and decay fraction are more than the whole stage."
            return [Problem((*place, "decay_fraction"), message)]
    elif settings.hidden_size % (2 * settings.num_heads):
        message = (
            f"Hidden size {settings.hidden_size} must give each of {settings.num_heads} heads an "
            "even number of channels (rotary embedding turns pairs)."
        )
        return [Problem((*place, "hidden_size"), message)]
    return []


def _value_problems(part: Any, good: Any, place: Place) -> list[Problem]:  # noqa: ANN401
    """Return what `check` says of each value of a dataclass, given one of its kind that is right.

    All values are checked together first: the second, slower look is for those that are wrong.
    """
    if _refusal(part) is None:
        return []
    alone = [
        Problem((*place, field.name), message)
        for field in fields(part)
        if (message := _refusal(replace(good, **{field.name: getattr(part, field.name)})))
    ]
    assert alone, "values are checked one by one"
    return alone


def _refusal(part: Any) -> str | None:  # noqa: ANN401 - any dataclass
    try:
        check(part)
    except OptionError as error:
        return str(error)
    return None


def _sampling_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong with the devices and the prompts of a recipe."""
    if isinstance(recipe.devices, str) and not DEVICES.fullmatch(recipe.devices):
        message = f"Devices must be like 0 or 0,1, or nothing; got {recipe.devices!r:.80}."
        yield Problem(("devices",), message)
    prompts = recipe.sample_prompts if isinstance(recipe.sample_prompts, tuple) else ()
    lengths = [len(prompt) for prompt in prompts if isinstance(prompt, str)]
    if len(prompts) > MAX_SAMPLE_PROMPTS or max(lengths, default=0) > MAX_SAMPLE_CHARACTERS:
        message = (
            f"At most {MAX_SAMPLE_PROMPTS} sample prompts of {MAX_SAMPLE_CHARACTERS} characters "
            f"each; got {len(prompts)} of at most {max(lengths, default=0):,}."
        )
        yield Problem(("sample_prompts",), message)
    if len(lengths) == len(prompts) and not all(prompt.strip() for prompt in prompts):
        message = "A sample prompt is empty. Write a few words, or remove it."
        yield Problem(("sample_prompts",), message)


def _replay_problems(stages: list[tuple[int, Stage]]) -> Iterator[Problem]:
    """Yield what is wrong with sources that read an earlier stage's text again."""
    earlier: list[str] = []
    for place, stage in stages:
        if isinstance(stage.settings, ExpandSettings):
            continue
        sources = stage.settings.sources
        inside = ("stages", place, "settings", "sources")
        replays = [(number, s.name) for number, s in enumerate(sources) if s.kind == "replay"]
        for number, name in replays:
            if name not in earlier:
                message = (
                    f"replay of {name!r:.80}, which is no earlier stage with text of its own; "
                    f"there is: {', '.join(earlier) or 'none'}."
                )
                yield Problem((*inside, number, "name"), message)
        if len(replays) == len(sources):
            yield Problem(inside, "no text of its own.")
        elif isinstance(stage.settings, PretrainSettings):
            earlier.append(stage.name)


def _pair_problems(pair: tuple[str, ...], stages: list[tuple[int, Stage]]) -> Iterator[Problem]:
    """Yield what is wrong with the two stages whose models are to be packed as a pair."""
    if not pair:
        return
    if len(pair) != 2:
        message = (
            "A pair is two training stages, one before and one after growing, or nothing; got "
            f"{len(pair)}: {', '.join(pair):.200}."
        )
        yield Problem(("pair",), message)
        return
    kinds = {stage.name: stage.kind for _, stage in stages}
    training = [name for name, kind in kinds.items() if kind == "pretrain"]
    unknown = [name for name in pair if name not in training]
    for name in unknown:
        message = (
            f"The pair names {name!r:.80}, which is no training stage of the run; there is: "
            f"{', '.join(training) or 'none'}."
        )
        yield Problem(("pair",), message)
    order = list(kinds)
    first, second = (order.index(name) if name in order else 0 for name in pair)
    if not unknown and "expand" not in [kinds[name] for name in order[first:second]]:
        message = (
            f"The pair {pair[0]}, {pair[1]} needs a stage that grows the model between the two: "
            "name the one before it first."
        )
        yield Problem(("pair",), message)


def _carry_problems(stages: list[tuple[int, Stage]]) -> Iterator[Problem]:
    """Yield which stages should go on with moments that no stage before them leaves."""
    previous: Stage | None = None
    for place, stage in stages:
        settings, before = stage.settings, previous.settings if previous else None
        if isinstance(settings, PretrainSettings) and settings.carry_optimizer:
            inside = ("stages", place, "settings", "carry_optimizer")
            if not isinstance(before, PretrainSettings):
                yield Problem(inside, "carry optimizer needs a training stage right before it.")
            elif before.optimizer != settings.optimizer:
                message = (
                    f"carry optimizer: the stage before trains with {before.optimizer}, whose "
                    f"moments {settings.optimizer} cannot go on with."
                )
                yield Problem(inside, message)
        previous = stage
