"""A draft of a recipe, as the planner in a browser holds it: JSON whose values may still be wrong.

What can be built of it is built and every problem is kept with its place, so that a form shows all
of them at once and loses nothing. Knows no Gradio.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from stentor.errors import OptionError
from stentor.knobs import MAX_EXACT, DataclassInstance, choose, unchecked_from_json
from training.alarm_settings import AlarmSettings
from training.recipe import Problem, Recipe, Stage, recipe_problems, recipe_to_json
from training.settings import SETTINGS, ExpandSettings, Source, StageSettings

MAX_STAGES, MAX_SOURCES = 32, 64
# A browser's numbers are exact up to 2^53; the seed may be larger and then travels as text.
LARGE_NUMBER = re.compile(r"\d{16,19}")
Json = Mapping[str, Any]
Place = tuple[str | int, ...]
Built = TypeVar("Built", bound=DataclassInstance)


@dataclass
class Draft:
    """What was built of a draft; a stage that could not be is None.

    `unreadable`: names and kinds that do not exist, or values of no known form. `wrong`: values
    that are out of their range, or do not fit each other.
    """

    stages: list[Stage | None] = field(default_factory=list)
    recipe: Recipe | None = None
    unreadable: list[Problem] = field(default_factory=list)
    wrong: list[Problem] = field(default_factory=list)

    def problems(self) -> list[Problem]:
        """Return everything that is wrong."""
        return [*self.unreadable, *self.wrong]


def read_draft(values: object) -> Draft:
    """Build what can be built of a draft.

    Raises:
        OptionError: no object with a list of stages, or one of absurd size.
    """
    stages = values.get("stages") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(stages, list):
        raise OptionError("A recipe is an object with a list of stages under 'stages'.")
    if len(stages) > MAX_STAGES:
        raise OptionError(f"A recipe may have {MAX_STAGES} stages; got {len(stages)}.")
    draft = Draft()
    for number, stage in enumerate(stages):
        draft.stages.append(_read_stage(draft, stage, ("stages", number)))
    alarms = _build(draft, AlarmSettings, values.get("alarms", {}), ("alarms",))
    built = tuple(stage for stage in draft.stages if stage is not None)
    rest = {name: value for name, value in values.items() if name not in ("stages", "alarms")}
    rest["seed"] = _whole(rest.get("seed", 0))
    ready = {"stages": built, "alarms": alarms or AlarmSettings()}
    recipe = _build(draft, Recipe, rest, (), ready)
    if recipe is not None and not draft.unreadable:
        draft.wrong = recipe_problems(recipe)
        draft.recipe = recipe
    return draft


def draft_of(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as a draft: its JSON, with a seed that a browser keeps exactly."""
    values: dict[str, Any] = json.loads(json.dumps(recipe_to_json(recipe)))
    if values["seed"] > MAX_EXACT:
        values["seed"] = str(values["seed"])
    return values


def _whole(value: object) -> object:
    """Return a seed as a number again."""
    is_large = isinstance(value, str) and LARGE_NUMBER.fullmatch(value)
    return int(value) if is_large and isinstance(value, str) else value


def _read_stage(draft: Draft, values: object, place: Place) -> Stage | None:
    if not isinstance(values, Mapping):
        message = f"A stage is an object with named values; got {values!r:.80}."
        draft.unreadable.append(Problem(place, message))
        return None
    try:
        settings_class = choose(SETTINGS, values.get("kind", ""), "kind of stage")
    except OptionError as error:
        draft.unreadable.append(Problem((*place, "kind"), str(error)))
        return None
    settings = _read_settings(
        draft, settings_class, values.get("settings", {}), (*place, "settings")
    )
    rest = {name: value for name, value in values.items() if name != "settings"}
    return _build(draft, Stage, rest, place, {"settings": settings}) if settings else None


def _read_settings(
    draft: Draft,
    settings_class: type[StageSettings],
    values: object,
    place: Place,
) -> StageSettings | None:
    if settings_class is ExpandSettings or not isinstance(values, Mapping):
        return _build(draft, settings_class, values, place)
    rest = {name: value for name, value in values.items() if name != "sources"}
    given = values.get("sources")
    if "sources" not in values:
        return _build(draft, settings_class, rest, place)
    inside = (*place, "sources")
    if not isinstance(given, list | tuple) or len(given) > MAX_SOURCES:
        message = f"Sources must be a list of at most {MAX_SOURCES}; got {given!r:.80}."
        draft.unreadable.append(Problem(inside, message))
        return _build(draft, settings_class, rest, place)
    built = [_build(draft, Source, one, (*inside, i)) for i, one in enumerate(given)]
    sources = tuple(source for source in built if source is not None)
    return _build(draft, settings_class, rest, place, {"sources": sources})


def _build(
    draft: Draft, owner: type[Built], values: object, place: Place, ready: Json | None = None
) -> Built | None:
    """Return an instance of values that are still to be checked; note the names it does not know.

    `ready`: fields that are built already.
    """
    if not isinstance(values, Mapping):
        message = f"{owner.__name__} must be an object with named values; got {values!r:.80}."
        draft.unreadable.append(Problem(place, message))
        return None
    names = {item.name: item for item in fields(owner)}
    known = dict(ready or {})
    for name, value in values.items():
        try:
            choose(names, name, f"{owner.__name__} option")
        except OptionError as error:
            draft.unreadable.append(Problem((*place, str(name)[:80]), str(error)))
        else:
            known[name] = value
    try:
        return unchecked_from_json(owner, known)
    except OptionError as error:
        draft.unreadable.append(Problem(place, str(error)))
        return None
