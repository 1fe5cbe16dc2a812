"""An option declared once, as a dataclass field: slider, flag, check and JSON all come from it.

    @dataclass(frozen=True)
    class Settings:
        temperature: float = knob(0.5, low=0.0, high=2.0, step=0.05, help="0 is greedy")

`check(settings)` names every option that is out of range at once, and every plain field that is not
of its annotated type. Nothing here knows Gradio.
"""

import argparse
import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from stentor.errors import OptionError


class DataclassInstance(Protocol):
    """Any dataclass instance (the standard library has no public name for it)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Settings = TypeVar("Settings", bound=DataclassInstance)
Value = TypeVar("Value")
# How a type is called in an error message.
WORDS: dict[Any, str] = {
    bool: "true or false",
    float: "a number",
    int: "a whole number",
    str: "text",
    NoneType: "nothing",
}
# Whole numbers up to here are exact as floats.
MAX_EXACT = 2**53


@dataclass(frozen=True)
class Knob:
    """What one option allows; `low` and `high` are inclusive, `choices` excludes both."""

    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()


def knob(
    default: Any,  # noqa: ANN401 - the field's own annotation is the type
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: Iterable[str] = (),
) -> Any:  # noqa: ANN401
    """Return a dataclass field that carries its own range and help text."""
    return dataclasses.field(
        default=default, metadata={"knob": Knob(help, low, high, step, tuple(choices))}
    )


def knobs(settings_class: type) -> dict[str, Knob]:
    """Return the knobs of a settings class in the order they were declared."""
    return {
        field.name: field.metadata["knob"]
        for field in dataclasses.fields(settings_class)
        if "knob" in field.metadata
    }


def label(name: str) -> str:
    """Return the words shown beside a control: `max_new_tokens` -> `Max new tokens`."""
    return name.replace("_", " ").capitalize()


def choose(table: Mapping[str, Value], name: str, what: str) -> Value:
    """Look `name` up; an unknown one is refused with what exists and what was probably meant."""
    if not isinstance(name, str):  # a name read from JSON may be anything
        raise OptionError(f"A {what} is named by text; got {_shown(name)}.")
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name[:80], table, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"No {what} is called {name[:80]!r}.{hint} Known: {', '.join(table)}.")


def check(settings: Settings) -> Settings:
    """Return `settings` unchanged, or raise one OptionError that lists every bad value."""
    options = knobs(type(settings))
    problems = []
    for name, hint in _types(type(settings)).items():
        value = getattr(settings, name)
        if name in options:
            problems.append(_problem(name, options[name], value, hint))
        elif not _fits(value, hint):
            problems.append(f"{label(name)} must be {_words(hint)}; got {_shown(value)}.")
    found = [problem for problem in problems if problem]
    if found:
        raise OptionError(" ".join(found))
    return settings


def _types(settings_class: type) -> dict[str, Any]:
    """Return the annotated type of every field, in the order they were declared."""
    hints = get_type_hints(settings_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(settings_class)}


def _problem(name: str, option: Knob, value: object, hint: Any) -> str | None:  # noqa: ANN401
    """Say what is wrong with one value, or None."""
    if option.choices:
        if value in option.choices:
            return None
        choices = ", ".join(option.choices)
        return f"{label(name)} must be one of {choices}; got {_shown(value)}."
    kinds = _kinds(hint)
    if value is None and NoneType in kinds:
        return None
    if not _fits(value, hint) or (isinstance(value, float) and not math.isfinite(value)):
        return f"{label(name)} must be {_words(hint)}; got {_shown(value)}."
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    if option.low is not None and value < option.low:
        return f"{label(name)} must be at least {_shown(option.low)}; got {_shown(value)}."
    if option.high is not None and value > option.high:
        return f"{label(name)} must be at most {_shown(option.high)}; got {_shown(value)}."
    return None


def _kinds(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - any annotation
    """Return the alternatives of a type: `int | None` -> (int, NoneType)."""
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


def _fits(value: object, hint: Any) -> bool:  # noqa: ANN401
    """Tell whether `value` is of the annotated type; a bool is no number, an int is a float."""
    kinds = _kinds(hint)
    if len(kinds) > 1:
        return any(_fits(value, kind) for kind in kinds)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple):
            return False
        inner = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(inner) == len(value) and all(map(_fits, value, inner))
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: Any) -> str:  # noqa: ANN401
    """Return a type in words: `int | None` -> `a whole number or nothing`."""
    kinds = _kinds(hint)
    if len(kinds) > 1:
        return " or ".join(map(_words, kinds))
    if get_origin(hint) is tuple:
        return f"a list of {_words(get_args(hint)[0])}"
    return WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _shown(value: object) -> str:
    """Return a received value for a message, cut where somebody sent a book."""
    return f"{value:.10g}" if isinstance(value, float) else f"{value!r:.80}"


def to_json(settings: DataclassInstance) -> dict[str, Any]:
    """Return a plain dictionary, nested dataclasses and tuples included."""
    return dataclasses.asdict(settings)


def from_json(settings_class: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build checked settings from a mapping; an unknown key is refused by name.

    A whole number given as a float (a browser sends 80.0) becomes an int again, a list a tuple,
    and an object the dataclass that was declared there.
    """
    return check(unchecked_from_json(settings_class, values))


def unchecked_from_json(settings_class: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Build settings whose values are still to be checked, so that all problems can be told."""
    what = settings_class.__name__
    if not isinstance(values, Mapping):
        raise OptionError(f"{what} must be an object with named values; got {_shown(values)}.")
    types = _types(settings_class)
    converted = {
        name: _convert(value, choose(types, name, f"{what} option"))
        for name, value in values.items()
    }
    missing = [
        field.name for field in dataclasses.fields(settings_class) if _is_missing(field, converted)
    ]
    if missing:
        raise OptionError(f"{what} lacks {', '.join(missing)}.")
    return settings_class(**converted)


def _is_missing(field: "dataclasses.Field[Any]", given: Mapping[str, Any]) -> bool:
    has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
    return field.name not in given and not has_default


def _convert(value: Any, hint: Any) -> Any:  # noqa: ANN401 - any JSON value, any annotation
    """Return a JSON value as the declared type, where that loses nothing."""
    kinds = _kinds(hint)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        inner = get_args(hint)[0]
        return tuple(_convert(item, inner) for item in value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return unchecked_from_json(hint, value)  # type: ignore[arg-type]
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)
    if type(value) is int and abs(value) <= MAX_EXACT and float in kinds and int not in kinds:
        return float(value)
    return value


def add_arguments(parser: argparse.ArgumentParser, settings_class: type) -> None:
    """Add one `--flag` per knob; defaults stay in the dataclass (a flag not given is absent)."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings_class)}
    types = _types(settings_class)
    for name, option in knobs(settings_class).items():
        flag = f"--{name.replace('_', '-')}"
        shown = "" if defaults[name] is None else f" (default {defaults[name]})"
        text = f"{option.help}{shown}".replace("%", "%%")
        kind = next(kind for kind in _kinds(types[name]) if kind is not NoneType)
        if kind is bool:
            action = argparse.BooleanOptionalAction
            parser.add_argument(flag, action=action, default=argparse.SUPPRESS, help=text)
            continue
        parser.add_argument(
            flag,
            type=kind,
            choices=option.choices or None,
            default=argparse.SUPPRESS,
            help=text,
        )


def from_arguments(settings_class: type[Settings], arguments: argparse.Namespace) -> Settings:
    """Build checked settings from what `add_arguments` parsed."""
    given = vars(arguments)
    return from_json(
        settings_class, {name: given[name] for name in knobs(settings_class) if name in given}
    )
