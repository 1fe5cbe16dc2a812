"""Stages that no other file runs: a model made from nothing, and the sample a stage ends with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipe import TRAINING, create, tiny_recipe

from stentor.loading import open_checkpoint_folder
from stentor.runs import current_status, read_events
from training.checkpoint import load_model
from training.recipe import Recipe, Stage
from training.recorder import Recorder
from training.runner import execute
from training.settings import CreateSettings, Source
from training.stages.pretrain import sample_text

CREATE = CreateSettings(
    vocab_size=320,
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=2,
    sources=(Source(), Source(name="textbook")),
    max_characters=20_000,
)


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


def test_the_sample_is_the_same_with_and_without_activation_checkpointing(
    tiny_model_folder: Path,
) -> None:
    """In training mode it drops the cache: each token was once chosen from the last alone."""
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    model = load_model(checkpoint)
    state = torch.random.get_rng_state()
    expected = sample_text(model, checkpoint, 3)
    model.activation_checkpointing_enable()
    model.train()
    assert sample_text(model, checkpoint, 3) == expected
    assert model.training
    assert sample_text(model, checkpoint, 4) != expected
    assert torch.equal(torch.random.get_rng_state(), state), "the run's own draws are its own"


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
        patch.setattr(Recorder, "stop_requested", lambda _: True)  # asked for from the first step
        assert execute(run) == 0
    assert current_status(run).state == "stopped"
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
        patch.setattr(
            Recorder, "stop_requested", lambda recorder: recorder.status.stage == "general"
        )
        assert execute(run) == 0
    assert (current_status(run).state, current_status(run).stage) == ("stopped", "general")
    assert "held-out windows (the last of this stage's text, too" in capsys.readouterr().out
    path.unlink()
    assert execute(run) == 0
    assert current_status(run).state == "finished"
