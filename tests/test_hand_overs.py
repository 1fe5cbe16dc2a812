"""A hand-over started as the page starts it: a real child, its result and its refusals."""

import time
from pathlib import Path

import pytest
from tiny_recipe import PATIENCE_SECONDS, create, run_to_its_end, tiny_recipe

from stentor import hand_overs
from stentor.errors import RunError
from stentor.home import models_folder
from stentor.runs import Run
from training.recipe import with_settings


@pytest.fixture
def short_run(tiny_model_folder: Path) -> Run:
    recipe = tiny_recipe(tiny_model_folder)
    for stage in ("general", "story"):
        recipe = with_settings(recipe, stage, num_steps=1)
    return create(recipe)


def wait(run: Run) -> dict[str, str]:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := hand_overs.read(run))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def test_a_finished_run_becomes_a_folder_and_a_second_try_says_where_the_first_is(
    short_run: Run,
) -> None:
    assert hand_overs.read(short_run)["state"] == "none"
    hand_overs.start(short_run, {"licence": "mit"})
    answer = wait(short_run)
    assert answer["state"] == "failed" and "is created, not finished" in answer["news"]
    assert run_to_its_end(short_run) == "finished"
    hand_overs.start(short_run, {"licence": "mit", "name": "-x --push=me/x", "public": False})
    folder = models_folder() / short_run.id
    assert wait(short_run) == {"state": "finished", "news": str(folder)}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "# -x --push=me/x" in card and "license: mit" in card
    hand_overs.start(short_run, {"licence": "mit"})
    answer = wait(short_run)
    assert answer["state"] == "failed" and f"{folder} exists already" in answer["news"]


def test_a_space_hands_nothing_over(short_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "me/space")
    with pytest.raises(RunError, match="public Space"):
        hand_overs.start(short_run, {})
    assert hand_overs.read(short_run)["state"] == "none"
