"""The command shown makes exactly the plan, whatever was changed in it."""

import random
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from stentor.errors import OptionError, RunError
from stentor.ui.train_command import command_of, flags_of, recipes_folder, save_recipe
from stentor.ui.train_draft import draft_of
from stentor.ui.train_plan import Rules, check_plan
from training.__main__ import make_parser
from training.recipe import Recipe, Stage, check_recipe, with_settings, with_text
from training.recipe_flags import chosen_recipe
from training.recipes import RECIPES, find_recipe
from training.settings import CreateSettings, ExpandSettings, PretrainSettings

STRANGER = Rules("Switched off here.", allow_folders=False)
CHANGES: dict[str, tuple[object, ...]] = {
    "num_steps": (7, 400),
    "learning_rate": (1e-4, 3e-7, 0.25),
    "schedule": ("wsd",),
    "decay_fraction": (0.3,),
    "budget": ("tokens",),
    "keep_best": (False,),
    "precision": ("fp32", "bf16"),
    "carry_optimizer": (True,),
    "max_epochs": (1.5,),
}


def changed(recipe: Recipe, pick: random.Random, folder: Path) -> Recipe | None:
    """Return the recipe after one change that a person could make, or None: not allowed there."""
    stages = list(recipe.stages)
    number = pick.randrange(len(stages))
    stage = stages[number]
    what = pick.choice(("option", "option", "skip", "text", "mix", "move", "drop", "add", "run"))
    if what == "option":
        if not isinstance(stage.settings, PretrainSettings):
            return with_settings(recipe, stage.name, num_layers=pick.randrange(8, 12))
        name = pick.choice(list(CHANGES))
        return with_settings(recipe, stage.name, **{name: pick.choice(CHANGES[name])})
    if what == "skip":
        stages[number] = replace(stage, skip=not stage.skip)
    elif what in ("text", "mix"):
        paths = tuple(str(folder / name) for name in ("my story.txt", "b=c.txt"))
        weights = (75.0, 25.0) if what == "mix" else ()
        return with_text(recipe, paths, pick.choice([stage.name, None]), weights)
    elif what == "move":
        stages.insert(pick.randrange(len(stages)), stages.pop(number))
    elif what == "drop":
        stages.pop(number)
    elif what == "add":
        more = CreateSettings() if pick.random() < 0.2 else ExpandSettings()
        kind = "create" if isinstance(more, CreateSettings) else "expand"
        stages.insert(number, Stage(f"new_{len(stages)}", kind, "New", more))
    else:
        options = ({"seed": 5}, {"num_processes": 2}, {"devices": "0,1"}, {"num_threads": 3})
        return replace(recipe, **pick.choice((*options, {"title": "Mine", "notes": ("one",)})))
    return replace(recipe, stages=tuple(stages))


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_makes_exactly_the_plan(name: str, tmp_path: Path) -> None:
    """What a person copies into a terminal must be the same recipe, whatever was changed."""
    pick = random.Random(name)
    used = {"flags": 0, "file": 0}
    for _ in range(120):
        recipe = find_recipe(name)
        for _ in range(pick.randrange(1, 5)):
            try:
                recipe = check_recipe(changed(recipe, pick, tmp_path.resolve()) or recipe)
            except OptionError:
                continue  # the form says so; there is no command for it
        command = save_recipe(recipe, None)
        assert made_by(command.text) == recipe, command.text
        used["file" if command.file else "flags"] += 1
    assert min(used.values()) > 20, used


def test_flags_say_what_flags_can(tmp_path: Path) -> None:
    recipe = find_recipe("card")
    text = str(tmp_path.resolve() / "my stories.txt")
    planned = with_text(replace(recipe, seed=3, devices="1"), (text,), "narrative")
    planned = with_settings(planned, "general", learning_rate=1e-4)
    assert flags_of(planned) == [
        *("--text", f"narrative={text}"),
        *("--set", "general.learning_rate=0.0001"),
        *("--seed", "3", "--devices", "1"),
    ]
    tokens = {"general", "narrative", "textbook"}
    for name in tokens:
        planned = with_settings(planned, name, budget="tokens")
    assert "--budget" in (flags_of(planned) or [])


def test_only_what_flags_cannot_say_needs_a_file() -> None:
    recipe = replace(find_recipe("practice"), title="Mine", name="My plan!")
    command = command_of(recipe)
    assert command.file is not None
    assert command.file.parent == recipes_folder()
    assert command.file.name.startswith("my-plan-")
    assert not command.file.exists(), "written when somebody wants it"
    assert made_by(save_recipe(recipe, None).text) == recipe
    assert command_of(replace(recipe, seed=1)).file != command.file


def test_nothing_is_written_where_training_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(find_recipe("practice"), title="Mine")
    with pytest.raises(RunError, match="Switched off"):
        save_recipe(recipe, STRANGER.refusal)
    monkeypatch.setenv("SPACE_ID", "someone/stentor")
    with pytest.raises(RunError, match="public Space"):
        save_recipe(recipe, None)
    assert not recipes_folder().exists()
    shown = check_plan(draft_of(recipe), STRANGER)["command"]
    assert shown["from"] == "download"
    assert shown["text"] == f"python -m training run {shown['file']}"


def made_by(command: str) -> Recipe:
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "training"]
    return chosen_recipe(make_parser().parse_args(words[3:]))
