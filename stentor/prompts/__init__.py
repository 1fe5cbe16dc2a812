"""The evaluation prompts: one TOML file of this folder = one category. Adding a file adds it.

    title, order, purpose, temperature, max_new_tokens, settings_reason, scorer, card_verdict?
    [[prompts]] text, expected?, origin: "card" (known from the model card) or "written" (for this
    project)

A prompt's id is its category and its place, `science-03`; so add prompts at the end of a file.
Knows no model and no result. Files are read on the first call, not on import.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.knobs import choose
from stentor.scorers import SCORERS

ALL = "all"
ORIGINS = ("card", "written")
VERDICTS = ("excellent", "moderate", "poor")
# The file's name is the category's; it becomes part of prompt ids and of folder names.
CATEGORY_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
MAX_TEXT = 2_000
HASH_DIGITS = 12


@dataclass(frozen=True)
class Prompt:
    """A fragment to continue. `expected`: answers of which one should come first, if any."""

    id: str
    category: str
    text: str
    origin: str
    expected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Category:
    """Prompts that are judged alike. `card_verdict`: what Stentor-Big's card says of it, if so."""

    name: str
    title: str
    order: int
    purpose: str
    temperature: float
    max_new_tokens: int
    settings_reason: str
    scorer: str
    card_verdict: str | None
    prompts: tuple[Prompt, ...]


def categories() -> dict[str, Category]:
    """Return every category by name, in the order the files ask for.

    Raises:
        OptionError: a file is wrong; the message names the file and the key.
    """
    return dict(_read_once(Path(__file__).resolve().parent))


def find_category(name: str) -> Category:
    """Return one category.

    Raises:
        OptionError: there is none of this name; the message lists those there are.
    """
    return choose(categories(), name, "prompt category")


def prompts_of(category: str) -> tuple[Prompt, ...]:
    """Return the prompts of one category, or of `all` of them."""
    chosen = categories().values() if category == ALL else (find_category(category),)
    return tuple(prompt for item in chosen for prompt in item.prompts)


def find_prompt(prompt_id: str) -> Prompt:
    """Return the prompt with this id.

    Raises:
        OptionError: there is no such category, or no such prompt in it; the message lists them.
    """
    category = prompt_id.rpartition("-")[0]
    return choose({prompt.id: prompt for prompt in prompts_of(category)}, prompt_id, "prompt")


def search(
    text: str = "", category: str | None = None, origin: str | None = None
) -> tuple[Prompt, ...]:
    """Return the prompts that hold every word of `text`, in any case and order.

    The words may stand in the prompt, its id or its category's title. `category` and `origin`
    narrow the choice; None or `all` does not.
    """
    words = text.casefold().split()
    titles = {name: item.title for name, item in categories().items()}
    return tuple(
        prompt
        for prompt in prompts_of(category or ALL)
        if origin in (None, ALL, prompt.origin)
        and _holds(f"{prompt.id} {titles[prompt.category]} {prompt.text}", words)
    )


def _holds(text: str, words: list[str]) -> bool:
    folded = text.casefold()
    return all(word in folded for word in words)


def suite_hash() -> str:
    """Return a hash of all that can change a result or a score; titles and reasons cannot."""
    content = [
        (
            item.temperature,
            item.max_new_tokens,
            item.scorer,
            prompt.id,
            prompt.text,
            prompt.expected,
        )
        for item in categories().values()
        for prompt in item.prompts
    ]
    stable = json.dumps(content, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(stable.encode()).hexdigest()[:HASH_DIGITS]}"


@cache
def _read_once(folder: Path) -> dict[str, Category]:
    return read_categories(folder)


def read_categories(folder: Path) -> dict[str, Category]:
    """Read and check every `.toml` file of a folder.

    Raises:
        OptionError: names the first file that is wrong, the key, what was received and the mend.
    """
    read = [read_category(path) for path in sorted(folder.glob("*.toml"))]
    if not read:
        raise OptionError(f"There is no prompt category (*.toml) in {folder}.")
    return {item.name: item for item in sorted(read, key=lambda item: (item.order, item.name))}


def read_category(path: Path) -> Category:
    """Read and check one file; see `read_categories`."""
    if not CATEGORY_NAME.fullmatch(path.stem) or path.stem == ALL:
        raise OptionError(f"{path}: a category's file is named with small letters and hyphens.")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} is not a TOML file in UTF-8 ({error}).") from error
    take = _Taker(path.name, "", values)
    category = Category(
        name=path.stem,
        title=take.text("title"),
        order=take.number("order", 0, 10_000, whole=True),
        purpose=take.text("purpose"),
        temperature=float(take.number("temperature", 0, 2)),
        max_new_tokens=take.number("max_new_tokens", 1, 512, whole=True),
        settings_reason=take.text("settings_reason"),
        scorer=take.one_of("scorer", tuple(SCORERS)),
        card_verdict=take.one_of("card_verdict", VERDICTS) if "card_verdict" in values else None,
        prompts=_read_prompts(path, take.tables("prompts")),
    )
    take.nothing_left()
    return category


def _read_prompts(path: Path, tables: list[dict[str, Any]]) -> tuple[Prompt, ...]:
    prompts = []
    for number, values in enumerate(tables, start=1):
        take = _Taker(path.name, f"prompt {number}: ", values)
        prompt = Prompt(
            id=f"{path.stem}-{number:02d}",
            category=path.stem,
            text=take.text("text"),
            origin=take.one_of("origin", ORIGINS),
            expected=take.texts("expected") if "expected" in values else (),
        )
        take.nothing_left()
        prompts.append(prompt)
    return tuple(prompts)


class _Taker:
    """Takes checked values out of one TOML table; every refusal names the file and the key."""

    def __init__(self, file: str, place: str, values: Mapping[str, Any]) -> None:
        self._file, self._place, self._left = file, place, dict(values)

    def _take(self, key: str, what: str, is_good: Callable[[Any], bool]) -> Any:  # noqa: ANN401
        if key not in self._left:
            raise OptionError(f"{self._file}: {self._place}{key} is missing; it must be {what}.")
        value = self._left.pop(key)
        if not is_good(value):
            received = repr(value)[:80]
            raise OptionError(f"{self._file}: {self._place}{key} must be {what}; got {received}.")
        return value

    def text(self, key: str) -> str:
        value: str = self._take(key, f"text of 1 to {MAX_TEXT} characters", _is_text)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._take(
            key,
            "a list of texts",
            lambda value: isinstance(value, list) and bool(value) and all(map(_is_text, value)),
        )
        return tuple(value)

    def number(self, key: str, low: int, high: int, *, whole: bool = False) -> Any:  # noqa: ANN401
        kind = int if whole else int | float
        return self._take(
            key,
            f"a {'whole ' if whole else ''}number from {low} to {high}",
            lambda value: (
                isinstance(value, kind) and type(value) is not bool and low <= value <= high
            ),
        )

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        value: str = self._take(key, f"one of {', '.join(choices)}", lambda v: v in choices)
        return value

    def tables(self, key: str) -> list[dict[str, Any]]:
        value: list[dict[str, Any]] = self._take(
            key,
            "one or more [[prompts]] tables",
            lambda value: (
                isinstance(value, list)
                and bool(value)
                and all(isinstance(item, dict) for item in value)
            ),
        )
        return value

    def nothing_left(self) -> None:
        for key in self._left:
            raise OptionError(f"{self._file}: {self._place}{key} is not a known key.")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_TEXT
