"""What a run leaves on disk, as the page shows it."""

import json
from dataclasses import replace

import pytest

from stentor.errors import OptionError, RunError
from stentor.runs import Run, create_run
from stentor.ui import train_checkpoints as kept
from training.recipe import recipe_to_json
from training.recipes import find_recipe

REFUSAL = "Switched off here."


def add(run: Run, name: str, loss: float | None) -> None:
    folder = run.checkpoints_folder / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"0" * 2_000)
    (folder / "trainer.json").write_text(json.dumps({"validation_loss": loss}), encoding="utf-8")


@pytest.fixture
def run() -> Run:
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    add(run, "expand-000000", None)
    for name, loss in (("general-000010", 3.1), ("general-000015", 2.9), ("general-000020", 3.0)):
        add(run, name, loss)
    return run


def test_each_checkpoint_has_its_figures_and_the_best_is_marked(run: Run) -> None:
    html = kept.panel(run, find_recipe("practice"))
    assert html.index("general-000020") < html.index("general-000010") < html.index("expand")
    assert "val. loss 3.10, 2.02 kB" in html
    assert html.count(">best<") == 1
    best = html[html.index("general-000015") : html.index("general-000010")]
    assert ">best<" in best
    assert f"run:{run.id}/expand-000000" in html
    assert "None yet" in kept.panel(create_run({}, "x"), find_recipe("practice"))


def test_the_start_of_the_run_is_the_first_model_to_compare_with(run: Run) -> None:
    other = create_run(recipe_to_json(find_recipe("practice")), "other")
    add(other, "general-000020", 1.0)
    html = kept.opponents(run.id, None)
    assert html.index("Start of this run") < html.index("demo-base") < html.index("demo-big")
    assert f"run:{run.id}/general-000015" in html
    assert f"run:{other.id}/general-000020" in html
    assert html.count('value="demo-base"') == 1


def test_strangers_are_not_told_the_folder_that_a_run_starts_from() -> None:
    recipe = replace(find_recipe("practice"), start="/home/owner/secret")
    run = create_run(recipe_to_json(recipe), "practice")
    assert "/home/owner/secret" in kept.opponents(run.id, None)
    assert "secret" not in kept.opponents(run.id, REFUSAL)


def test_only_what_the_menu_offers_can_be_the_opponent(run: Run) -> None:
    assert kept.opponent_of(run.id, "") is None
    assert kept.opponent_of(run.id, "demo-big") == "demo-big"
    with pytest.raises(OptionError, match="none of the models"):
        kept.opponent_of(run.id, "/etc")
    with pytest.raises(OptionError):
        kept.opponent_of(run.id, ["demo-big"])


def test_the_question_before_a_deletion_names_run_and_size(run: Run) -> None:
    told = kept.describe_for_deletion(run.id, None)
    assert told["name"] == run.id
    assert "4 checkpoints" in told["text"] and "kB" in told["text"]
    with pytest.raises(RunError, match=REFUSAL):
        kept.describe_for_deletion(run.id, REFUSAL)
    wrong: tuple[object, ...] = ("../x", None, {})
    for bad in wrong:
        with pytest.raises((RunError, OptionError)):
            kept.describe_for_deletion(bad, None)
