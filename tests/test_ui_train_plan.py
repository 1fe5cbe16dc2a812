"""Drafts of recipes: what is wrong and where, cards, totals, and the command for exactly that."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import DataError, OptionError
from stentor.home import uploads_folder
from stentor.ui.train_draft import MAX_STAGES, draft_of
from stentor.ui.train_plan import (
    MAX_DRAFT_CHARACTERS,
    Rules,
    check_plan,
    load_text,
    planned_recipe,
    whole_recipe,
    without_folders,
)
from training.recipe import recipe_to_json, with_settings
from training.recipes import RECIPES, find_recipe
from training.settings import Source

OWNER = Rules(None, allow_folders=True)
CLASS = Rules(None, allow_folders=False)
STRANGER = Rules("Switched off here.", allow_folders=False)


def draft(name: str = "practice") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(draft_of(find_recipe(name))))
    return found


def problems(values: object, rules: Rules = OWNER, level: str = "error") -> dict[str, str]:
    found = check_plan(values, rules)["problems"]
    return {item["place"]: item["message"] for item in found if item["level"] == level}


@pytest.mark.parametrize("name", RECIPES)
def test_a_preset_is_its_own_draft(name: str) -> None:
    values = draft(name)
    assert whole_recipe(values) == find_recipe(name)
    answer = check_plan(values, OWNER)
    assert answer["command"] == {"text": f"python -m training run {name}", "from": "flags"}
    assert len(answer["cards"]) == len(values["stages"])
    json.dumps(answer)


def test_a_recipe_that_packs_a_pair_goes_through_the_planner_unharmed() -> None:
    recipe = find_recipe("demo-pair")
    training = [stage.name for stage in recipe.stages if stage.kind == "pretrain"]
    recipe = replace(recipe, pair=(training[0], training[-1]))
    values = json.loads(json.dumps(draft_of(recipe)))
    assert whole_recipe(values) == recipe
    assert whole_recipe(load_text(json.dumps(values))) == recipe
    shown = check_plan(values, OWNER)
    assert "pair" not in {item["place"] for item in shown["problems"]}
    values["stages"][1]["skip"] = True
    assert "is no training stage of the run" in problems(values)["pair"]


def test_every_problem_is_at_its_field_at_once() -> None:
    values = draft()
    values["seed"] = 1.5
    values["stages"][0]["settings"]["num_heads"] = 3
    values["stages"][1]["settings"].update(num_steps="many", learning_rate=7)
    values["stages"][1]["settings"]["sources"][0]["weight"] = 0
    values["stages"][2]["name"] = "general"
    values["alarms"]["stall_factor"] = 0
    assert problems(values) == {
        "seed": "Seed must be a whole number; got 1.5.",
        "alarms.stall_factor": "Stall factor must be at least 2; got 0.",
        "stages.0.settings.hidden_size": "Hidden size 256 must give each of 3 heads an even number "
        "of channels (rotary embedding turns pairs).",
        "stages.1.name": "'general' must be a unique name of small letters and digits.",
        "stages.2.name": "'general' must be a unique name of small letters and digits.",
        "stages.1.settings.num_steps": "Num steps must be a whole number; got 'many'.",
        "stages.1.settings.learning_rate": "Learning rate must be at most 1; got 7.",
    }
    values["stages"][1]["settings"].update(num_steps=20, learning_rate=5e-4)
    assert problems(values)["stages.1.settings.sources.0.weight"].startswith("Weight must be at")
    assert check_plan(values, OWNER)["command"]["text"] == ""


def test_what_fits_only_together_is_told_where_it_can_be_mended() -> None:
    values = draft()
    values["stages"][1]["settings"]["carry_optimizer"] = True
    values["stages"][1]["settings"]["sources"] = [{"kind": "replay", "name": "textbook"}]
    assert problems(values) == {
        "stages.1.settings.sources.0.name": "Replay of 'textbook', which is no earlier stage with "
        "text of its own; there is: none.",
        "stages.1.settings.sources": "No text of its own.",
        "stages.1.settings.carry_optimizer": "Carry optimizer needs a training stage right before "
        "it.",
    }
    values = draft()
    values["start"] = None
    assert list(problems(values)) == ["start"]


def test_what_is_skipped_is_left_out_of_the_run_and_of_the_totals() -> None:
    values = draft()
    values["stages"][1]["skip"] = True
    answer = check_plan(values, OWNER)
    assert answer["totals"] == {
        "steps": 40,
        "tokens": 81_920,
        "words": "3 stages, 81.9 k training tokens in 40 steps, 1 skipped",
    }
    assert answer["command"]["text"].endswith("--skip general")
    names = [stage.name for stage in planned_recipe(values, OWNER).stages]
    assert names == ["expand", "narrative", "textbook"]
    # A stage may carry on from the one before the skipped one; nothing may replay what is skipped.
    values["stages"][1]["skip"], values["stages"][2]["skip"] = False, True
    values["stages"][3]["settings"]["carry_optimizer"] = True
    assert problems(values) == {}
    values["stages"][3]["settings"]["sources"].append({"kind": "replay", "name": "narrative"})
    assert "no earlier stage" in problems(values)["stages.3.settings.sources.1.name"]


def test_the_two_lengths_that_disagree_are_both_shown() -> None:
    rows = dict(check_plan(draft("card"), OWNER)["cards"][1]["rows"])
    assert rows["Length"] == "9,500 steps, 623 M tokens"
    assert rows["Or"] == "279 M tokens, if tokens count"


def test_files_are_looked_for_only_where_they_may_be_read(tmp_path: Path) -> None:
    """A page that other people reach must not tell which files this machine has."""
    uploads_folder().mkdir(parents=True)
    kept = uploads_folder() / "mine.txt"
    kept.write_text("text", encoding="utf-8")
    secret = tmp_path / "secret.txt"
    secret.write_text("text", encoding="utf-8")
    values = draft()
    source = values["stages"][1]["settings"]["sources"][0]
    source.update(kind="files", paths=[str(kept)])
    place = "stages.1.settings.sources.0.paths"
    assert problems(values, OWNER) == problems(values, CLASS) == {}
    source["paths"] = [str(secret)]
    assert problems(values, OWNER) == {}
    there = problems(values, CLASS)[place]
    source["paths"] = [str(tmp_path / "absent")]
    assert problems(values, OWNER)[place].endswith("does not exist.")
    assert problems(values, CLASS)[place] == there.replace("secret.txt", "absent")
    assert problems(values, STRANGER) == {}, "nothing will start, so nothing looks"
    source["paths"] = ["stories"]
    assert "is no whole path" in problems(values)[place]
    source["paths"] = []
    assert "Upload a file" in problems(values)[place]
    values["start"] = str(tmp_path)
    assert "cannot be opened from here" in problems(values, CLASS)["start"]


@pytest.mark.parametrize("name", ["../recipe.json", "missing.txt", "link.txt", "/etc/passwd", ""])
def test_only_uploaded_files_can_be_named(name: str) -> None:
    uploads_folder().mkdir(parents=True)
    (uploads_folder() / "link.txt").symlink_to("/etc/passwd")
    values = draft()
    source = values["stages"][1]["settings"]["sources"][0]
    source.update(kind="files", paths=[str(uploads_folder() / name)])
    with pytest.raises(DataError, match="is no uploaded file"):
        planned_recipe(values, CLASS)


def test_a_model_that_has_to_be_fetched_is_a_warning() -> None:
    assert "fetch the real pair" in problems(draft("card"), level="warning")["start"]


def test_a_large_seed_survives_the_browser() -> None:
    recipe = replace(find_recipe("practice"), seed=2**63 - 1)
    values = draft_of(recipe)
    assert values["seed"] == str(2**63 - 1)
    assert whole_recipe(values) == recipe


def test_a_recipe_file_is_loaded_or_refused_with_every_reason() -> None:
    recipe = find_recipe("stentor-big-plus")
    assert load_text(json.dumps(recipe_to_json(recipe))) == json.loads(json.dumps(draft_of(recipe)))
    values = draft()
    values["stages"][1]["settings"]["num_steps"] = -5
    assert load_text(json.dumps(values)) == values, "mended in the form"
    values["sed"] = 1
    values["stages"][0]["settings"]["widht"] = 1
    values["stages"][1]["kind"] = "pretain"
    with pytest.raises(DataError) as caught:
        load_text(json.dumps(values))
    for word in ("'sed'. Did you mean 'seed'", "'widht'. Did you mean 'width'", "'pretain'"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "an object with a list of stages"),
        ('{"stages": 5}', "an object with a list of stages"),
        (" " * (MAX_DRAFT_CHARACTERS + 1), "at most 1,000,000 characters"),
        (json.dumps({"stages": [{}] * (MAX_STAGES + 1)}), "may have 32 stages; got 33"),
        (json.dumps({"stages": [5]}), "A stage is an object"),
        (5, "at most 1,000,000 characters"),
    ],
)
def test_what_is_no_recipe_file_is_refused(text: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_text(text)


def test_a_draft_of_any_size_is_refused() -> None:
    with pytest.raises(OptionError, match="at most 1,000,000 characters"):
        check_plan({"stages": [], "title": "x" * MAX_DRAFT_CHARACTERS}, OWNER)
    with pytest.raises(OptionError, match="list of stages"):
        check_plan(None, OWNER)


def test_strangers_do_not_learn_where_files_are() -> None:
    files = Source(kind="files", paths=("/home/me/stories/a.txt",))
    recipe = with_settings(find_recipe("practice"), "general", sources=(files,))
    shown = without_folders(draft_of(replace(recipe, start="/home/me/models/base")))
    assert "/home/me" not in json.dumps(shown)
    assert shown["start"] == "base"
