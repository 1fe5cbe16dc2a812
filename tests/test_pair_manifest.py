"""A manifest tells how to make its pair again; the embedded pair is what its manifest says."""

import json
from dataclasses import replace

from stentor.home import assets_folder
from training.pair.manifest import (
    MANIFEST_FILE,
    check_manifest,
    is_named,
    rebuild_command,
    without_folders,
)
from training.recipe import recipe_from_json, with_corpora, with_settings
from training.recipes import find_recipe

EMBEDDED = assets_folder() / "models"
CORPORA = ("stage1_general.parquet", "stage2_narrative.parquet", "stage3_textbook.parquet")


def test_the_embedded_pair_is_whole_and_its_recipe_still_one() -> None:
    assert check_manifest(EMBEDDED) == []
    values = json.loads((EMBEDDED / MANIFEST_FILE).read_text(encoding="utf-8"))
    recipe = recipe_from_json(values["recipe"])
    assert is_named(recipe), "the recipe was changed and the pair not made again"
    assert values["command"] == rebuild_command(recipe)


def test_a_pair_of_the_named_recipe_is_made_again_by_name() -> None:
    recipe = with_corpora(find_recipe("demo-pair"), "/home/me/corpora", CORPORA)
    named = "python -m training run demo-pair --corpora DIR"
    assert rebuild_command(recipe) == named
    assert rebuild_command(replace(recipe, num_processes=2, devices="0,1", num_threads=3)) == named
    for changed in (
        replace(recipe, seed=recipe.seed + 1),
        replace(recipe, name="mine"),
        with_settings(recipe, recipe.stages[-1].name, learning_rate=1e-4),
    ):
        assert rebuild_command(changed) == "python -m training run recipe.json --corpora DIR"
    told = replace(recipe, notes=(), sample_prompts=("Once",), title="Mine")
    assert rebuild_command(told) == named, "words do not change the weights"


def test_a_recipe_for_others_names_no_folder() -> None:
    recipe = with_corpora(find_recipe("demo-pair"), "/home/me/corpora", CORPORA)
    told = json.dumps(repr(without_folders(replace(recipe, start="/home/me/model"))))
    assert "/home" not in told
    assert "stage1_general.parquet" in told and "start='model'" in told
    assert without_folders(replace(recipe, start="run:a/b-000001")).start == "run:a/b-000001"
