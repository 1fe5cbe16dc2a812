"""What starts a plan: only a finished check of that very plan lets it go."""

import json
from typing import Any

import pytest

from stentor.errors import StentorError
from stentor.rehearsals import rehearsals_folder
from stentor.runs import list_runs, write_json
from stentor.ui.train_command import recipe_digest
from stentor.ui.train_draft import draft_of
from stentor.ui.train_launch import Launcher
from stentor.ui.train_plan import Rules
from training.recipe import Recipe
from training.recipes import find_recipe

PRACTICE = json.loads(json.dumps(draft_of(find_recipe("practice"))))
# What a job of a check is called, see stentor/rehearsals.py.
JOB = "20260101-120000-check-0123abcd"


def finished_check(recipe: Recipe, *levels: str) -> Launcher:
    """Return a launcher that knows a finished check of this recipe, with these problems."""
    folder = rehearsals_folder() / JOB
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "process.json", {"pid": None, "process_start": None})
    write_json(folder / "report.json", {"problems": [{"level": level} for level in levels]})
    launcher = Launcher(Rules(None, allow_folders=True))
    launcher.checked[JOB] = recipe_digest(recipe)
    return launcher


@pytest.mark.parametrize(
    ("levels", "question", "message"),
    [
        (["error"], {"anyway": True}, "found errors. Mend them"),
        (["warning", "note"], {}, "found warnings. Mend them, or press Start anyway"),
        (["warning"], {"anyway": "yes"}, "found warnings"),
        ([], {"job": "another"}, "not checked to its end"),
        ([], {"draft": {**PRACTICE, "seed": 1}}, "not checked to its end"),
        ([], {"draft": {**PRACTICE, "seed": -1}}, "Seed must be at least 0"),
        ([], {"job": 5}, "must be a short text"),
    ],
)
def test_only_a_checked_plan_starts(
    levels: list[str], question: dict[str, Any], message: str
) -> None:
    """The page hides the button; the server says it to whoever presses it all the same."""
    launcher = finished_check(find_recipe("practice"), *levels)
    with pytest.raises(StentorError, match=message):
        launcher.start_plan({"draft": PRACTICE, "job": JOB, **question})
    assert list_runs() == []
