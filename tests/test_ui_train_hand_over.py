"""The hand-over as the page asks for it: options, refusals, and that it starts what was asked."""

import time
from pathlib import Path

import pytest
from tiny_recipe import PATIENCE_SECONDS, create, run_to_its_end, tiny_recipe

from stentor import hand_overs
from stentor.errors import OptionError, RunError, StentorError
from stentor.home import models_folder
from stentor.runs import Run
from stentor.ui.train_hand_over import hand_over
from training.recipe import with_settings

REFUSAL = "Switched off here."


@pytest.fixture
def run(tiny_model_folder: Path) -> Run:
    recipe = tiny_recipe(tiny_model_folder)
    for stage in ("general", "story"):
        recipe = with_settings(recipe, stage, num_steps=1)
    return create(recipe)


def test_the_form_offers_the_hub_only_where_a_token_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    names = [option["name"] for option in hand_over({"run": run.id}, None)["options"]]
    assert names == ["name", "licence", "dtype", "gguf"]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    reply = hand_over({"run": run.id}, None)
    assert [option["name"] for option in reply["options"]][-2:] == ["push", "public"]
    assert "hf_secret" not in str(reply)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"licence": "my own!"}, "named as on the Hub"),
        ({"push": "--public"}, "OWNER/NAME"),
        ({"gguf": "Q1"}, "must be one of"),
        ({"output": "/etc"}, "No HandOverSettings option is called 'output'"),
        ("mit", "must be an object"),
        ({}, "only a finished run"),
    ],
)
def test_what_is_not_allowed_is_refused_and_nothing_starts(
    run: Run, settings: object, words: str
) -> None:
    with pytest.raises(StentorError, match=words):
        hand_over({"run": run.id, "settings": settings}, None)
    assert hand_overs.read(run)["state"] == "none"


def test_strangers_and_spaces_hand_nothing_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=REFUSAL):
        hand_over({"run": run.id}, REFUSAL)
    monkeypatch.setenv("SPACE_ID", "me/space")
    with pytest.raises(RunError, match="public Space"):
        hand_over({"run": run.id, "settings": {}}, None)
    with pytest.raises((OptionError, RunError)):
        hand_over({"run": ["x"]}, None)


def test_a_finished_run_is_written_and_the_page_is_told_where(run: Run) -> None:
    assert run_to_its_end(run) == "finished"
    reply = hand_over({"run": run.id, "settings": {"licence": "mit", "name": "Mill"}}, None)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while reply["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
        reply = hand_over({"run": run.id}, None)
    folder = models_folder() / run.id
    assert (reply["state"], reply["news"]) == ("finished", str(folder))
    assert "# Mill" in (folder / "README.md").read_text(encoding="utf-8")
