"""What the planner shows of a draft: problems with their places, cards, totals and the command.

Everything is checked here, on the server, and all of it at once. Knows no Gradio.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.errors import DataError, OptionError, StentorError
from stentor.home import uploads_folder
from stentor.hub import folder_of
from stentor.models import MODELS, find_model
from stentor.ui.train_command import command_of, recipe_digest
from stentor.ui.train_draft import Draft, draft_of, read_draft
from stentor.ui.train_plan_cards import card_of, totals
from stentor.ui.train_uploads import list_texts
from training.recipe import Problem, Recipe, without_skipped
from training.settings import ExpandSettings, Source

MAX_DRAFT_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Rules:
    """What this server allows. `refusal`: why nothing may start, or None."""

    refusal: str | None
    allow_folders: bool


def check_plan(values: object, rules: Rules) -> dict[str, Any]:
    """Return what the planner shows of a draft, as plain JSON.

    Raises:
        OptionError: the draft is no recipe at all, or too large.
    """
    draft = read_draft(bounded(values))
    problems = [{**_as_json(problem), "level": "error"} for problem in found_problems(draft, rules)]
    problems += [{**_as_json(problem), "level": "warning"} for problem in _missing_model(draft)]
    return {
        "problems": problems,
        "cards": [card_of(stage) for stage in draft.stages],
        "totals": totals(draft),
        "command": _command(draft, rules),
        "digest": recipe_digest(draft.recipe) if draft.recipe else "",
        "devices": draft.recipe.devices if draft.recipe and not draft.wrong else "",
    }


def planned_recipe(values: object, rules: Rules) -> Recipe:
    """Return the recipe that a draft stands for, ready to run: nothing is skipped in it any more.

    Raises:
        OptionError, DataError: something is wrong with it; the message names everything.
    """
    recipe = whole_recipe(values)
    problems = found_problems(read_draft(values), rules)
    if problems:
        raise DataError(" ".join(_sentence(problem, recipe) for problem in problems))
    return without_skipped(recipe)


def whole_recipe(values: object) -> Recipe:
    """Return the recipe of a draft, skipped stages included.

    Raises:
        OptionError: it is none; the message names everything.
    """
    draft = read_draft(bounded(values))
    if draft.recipe is None or draft.wrong:
        raise OptionError(" ".join(_sentence(p, draft.recipe) for p in draft.problems()))
    return draft.recipe


def load_text(text: object) -> dict[str, Any]:
    """Return the draft that a recipe file holds.

    Raises:
        DataError: too large, no JSON, or no recipe; the message names everything unreadable.
    """
    if not isinstance(text, str) or len(text) > MAX_DRAFT_CHARACTERS:
        raise DataError(f"A recipe file has at most {MAX_DRAFT_CHARACTERS:,} characters.")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"The file is no JSON: {error}") from error
    return load_values(values)


def load_values(values: object) -> dict[str, Any]:
    """Return the draft of a recipe's JSON; values out of their range stay, to be mended in a form.

    Raises:
        DataError: something in it has no place in a form; the message names everything unreadable.
    """
    try:
        draft = read_draft(values)
    except OptionError as error:
        raise DataError(str(error)) from error
    if draft.recipe is None:
        raise DataError(" ".join(_sentence(problem, None) for problem in draft.unreadable))
    return draft_of(draft.recipe)


def without_folders(values: dict[str, Any]) -> dict[str, Any]:
    """Return a draft whose files are named without their folders, for strangers."""
    for stage in values["stages"]:
        for source in stage["settings"].get("sources", ()):
            source["paths"] = [Path(path).name for path in source["paths"]]
    start = values["start"]
    if isinstance(start, str) and "/" in start and not start.startswith("run:"):
        values["start"] = Path(start).name
    return values


def bounded(values: object) -> object:
    """Return a draft that is not too large to be looked at.

    Raises:
        OptionError: it is.
    """
    try:
        length = len(json.dumps(values))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"The draft is no plain JSON: {error}") from error
    if length > MAX_DRAFT_CHARACTERS:
        raise OptionError(f"A recipe has at most {MAX_DRAFT_CHARACTERS:,} characters as JSON.")
    return values


def found_problems(draft: Draft, rules: Rules) -> list[Problem]:
    """Return everything that keeps a draft from starting, as far as the page can know."""
    problems = draft.problems()
    if draft.recipe is None:
        return problems
    problems += _start_problems(draft.recipe, rules)
    if rules.refusal:
        return problems  # nothing will read a file, so nothing looks for one
    uploads = {str(uploads_folder() / name) for name in list_texts()}
    for place, stage in enumerate(draft.recipe.stages):
        if isinstance(stage.settings, ExpandSettings) or stage.skip:
            continue
        for number, source in enumerate(stage.settings.sources):
            where = ("stages", place, "settings", "sources", number, "paths")
            texts = _file_problems(source, uploads, rules)
            problems += [Problem(where, message) for message in texts]
    return problems


def _file_problems(source: Source, uploads: set[str], rules: Rules) -> list[str]:
    if source.kind != "files" or not isinstance(source.paths, tuple):
        return []
    if not source.paths:
        return ["This source reads your own text and has none. Upload a file and choose it here."]
    return [found for path in source.paths if (found := _path_problem(str(path), uploads, rules))]


def _path_problem(path: str, uploads: set[str], rules: Rules) -> str | None:
    if path in uploads:
        return None
    if not rules.allow_folders:
        return f"{path[:200]} is no uploaded file, and nothing else can be read from here."
    try:
        place = Path(path)
        if not place.is_absolute():
            return f"{path[:200]} is no whole path; write one such as /home/me/stories."
        return None if place.exists() else f"{path[:200]} does not exist."
    except (OSError, ValueError):  # a name too long for the system, or with a null in it
        return f"{path[:200]!r} is no path."


def _start_problems(recipe: Recipe, rules: Rules) -> list[Problem]:
    if not isinstance(recipe.start, str):
        return []
    try:
        find_model(recipe.start, allow_folders=rules.allow_folders and not rules.refusal)
    except StentorError as error:
        return [Problem(("start",), str(error))]
    return []


def _missing_model(draft: Draft) -> list[Problem]:
    """Return that the model to start from has to be fetched first, if so."""
    start = draft.recipe.start if draft.recipe else None
    model = MODELS.get(start) if isinstance(start, str) else None
    if model is None or folder_of(model) is not None:
        return []
    message = f"{model.title} is not on this machine yet; fetch the real pair first."
    return [Problem(("start",), message)]


def _as_json(problem: Problem) -> dict[str, Any]:
    message = problem.message
    return {
        "place": ".".join(map(str, problem.place)),
        "message": message[:1].upper() + message[1:],
    }


def _sentence(problem: Problem, recipe: Recipe | None) -> str:
    place = problem.stage()
    if place is None:
        return problem.message
    name = recipe.stages[place].name if recipe else place + 1
    return f"Stage {name}: {problem.message}"


def _command(draft: Draft, rules: Rules) -> dict[str, Any]:
    """Return the command and where its recipe comes from: the table, a file, or a download."""
    if draft.recipe is None or draft.wrong:
        return {"text": "", "from": ""}
    command = command_of(draft.recipe)
    if command.file is None:
        return {"text": command.text, "from": "flags"}
    if rules.refusal:  # nothing is written here, and nobody needs to know where it would be
        name = f"{command.file.stem}.json"
        return {"text": f"python -m training run {name}", "from": "download", "file": name}
    return {"text": command.text, "from": "file", "file": str(command.file)}
