"""Stages that no other file runs: a model made from nothing, and the sample a stage ends with."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import GROWN, TRAINING, create, tiny_recipe

from stentor.loading import open_checkpoint_folder, read_json
from stentor.runs import current_status, read_events
from training.recipe import Recipe, Stage
from training.recorder import Recorder
from training.runner import execute
from training.settings import CreateSettings, Source

CREATE = CreateSettings(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=2,
    sources=(Source(), Source(name="textbook")),
    max_characters=20_000,
)


def has_stepped(recorder: Recorder, stage: str) -> bool:
    """Tell whether a stage has taken its first step."""
    events = read_events(recorder.run)
    return any(event["kind"] == "metrics" and event["stage"] == stage for event in events)


@pytest.mark.usefixtures("old_signals")
def test_a_model_made_from_nothing_is_the_same_every_time() -> None:
    """Also the one run that trains with activation checkpointing, as the card's recipe does."""
    settings = replace(TRAINING, num_steps=2, gradient_checkpointing=True)
    recipe = Recipe(
        name="new",
        title="New",
        purpose="From nothing.",
        start=None,
        stages=(
            Stage("create", "create", "Create", CREATE),
            Stage("base", "pretrain", "Train", settings),
        ),
        seed=11,
        num_threads=1,
    )
    revisions = []
    for _ in range(2):
        run = create(recipe)
        assert execute(run) == 0
        assert current_status(run).finished_stages == ("create", "base")
        checkpoint = open_checkpoint_folder(run.checkpoints_folder / "base-000002")
        assert checkpoint.shape.vocab_size == 320 and checkpoint.end_tokens == {0}
        revisions.append(checkpoint.revision)
    assert revisions[0] == revisions[1]


@pytest.mark.usefixtures("old_signals")
def test_reading_text_several_times_is_said(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("A short text that is soon read. " * 200)
    source = Source(kind="files", paths=(str(tmp_path / "short.txt"),))
    settings = replace(TRAINING, num_steps=3, sources=(source,))
    recipe = Recipe(
        name="short",
        title="Short",
        purpose="Too little text.",
        start=str(tiny_model_folder),
        stages=(Stage("general", "pretrain", "General", settings),),
        num_threads=1,
    )
    run = create(recipe)
    assert execute(run) == 0
    (warning,) = [event["message"] for event in read_events(run) if event["kind"] == "warning"]
    assert warning.startswith("Stage general reads its text ")


@pytest.mark.usefixtures("old_signals")
def test_a_resumed_stage_outlives_the_checkpoint_it_resumed_from(tiny_model_folder: Path) -> None:
    """The tokenizer was copied from the resumed checkpoint, which is pruned two saves later.

    The demo pair's own run ended its base without a tokenizer and could not be expanded.
    """
    settings = replace(TRAINING, num_steps=6, checkpoint_every=1)
    recipe = Recipe(
        name="pruned",
        title="Pruned",
        purpose="Resume, then save more often than checkpoints are kept.",
        start=str(tiny_model_folder),
        stages=(Stage("base", "pretrain", "Train", settings),),
        num_threads=1,
    )
    run = create(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "stop_requested", lambda recorder: has_stepped(recorder, "base"))
        assert execute(run) == 0
    assert current_status(run).state == "stopped"
    assert (run.checkpoints_folder / "base-000001").exists()
    assert execute(run) == 0
    assert current_status(run).state == "finished"
    assert not (run.checkpoints_folder / "base-000001").exists()
    open_checkpoint_folder(run.checkpoints_folder / "base-000006")


@pytest.mark.usefixtures("old_signals")
def test_text_that_was_read_already_may_be_gone_at_a_resume(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "general.txt"
    path.write_text("A line of text that is read once.\n" * 3000)
    source = Source(kind="files", paths=(str(path),))
    run = create(tiny_recipe(tiny_model_folder, (source,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "stop_requested", lambda recorder: has_stepped(recorder, "general"))
        assert execute(run) == 0
    assert (current_status(run).state, current_status(run).stage) == ("stopped", "general")
    assert "held-out windows (the last of this stage's text, too" in capsys.readouterr().out
    path.unlink()
    assert execute(run) == 0
    assert current_status(run).state == "finished"


@pytest.mark.usefixtures("old_signals")
def test_a_grown_checkpoint_says_how_it_was_grown(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's events, its log and the checkpoint; the plain clone is warned of."""
    settings = replace(GROWN, width="clone", symmetry_break="none", depth="identity_back")
    recipe = Recipe(
        name="growing",
        title="Growing",
        purpose="One expansion.",
        start=str(tiny_model_folder),
        stages=(Stage("expand", "expand", "Grow", settings),),
        seed=9,
        num_threads=1,
    )
    run = create(recipe)
    assert execute(run) == 0
    events = list(read_events(run))
    (growth,) = (event for event in events if event["kind"] == "growth")
    warnings = [event["message"] for event in events if event["kind"] == "warning"]
    assert any("same gradients" in warning for warning in warnings)
    stored = read_json(run.checkpoints_folder / "expand-000000" / "growth.json")
    assert {name: growth[name] for name in stored} == stored
    assert (stored["width"], stored["depth"], stored["seed"]) == ("clone", "identity_back", 9)
    printed = capsys.readouterr().out
    assert "clone (none) + identity_back, seed 9: " in printed
    assert "same function: max |delta logit|" in printed
