"""What a training run tells on the way: samples, checkpoints on request, and its share of the peak.

Every run is executed in this process; wishes arrive as files, between two given steps.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import GROWN, TRAINING, create, metrics

from stentor.loading import open_checkpoint_folder
from stentor.run_wishes import ask_to_sample, ask_to_save, ask_to_stop
from stentor.runs import Run, current_status, list_checkpoints, read_events
from training.checkpoint import load_model
from training.recipe import Recipe, Stage
from training.recorder import Recorder
from training.runner import execute
from training.sample import continue_prompts
from training.settings import PretrainSettings

pytestmark = pytest.mark.usefixtures("old_signals")

PROMPTS = ("One morning the", "The river is")
QUICK = replace(
    TRAINING, num_steps=6, batch_size=2, validate_every=4, checkpoint_every=4, keep_best=False
)


def recipe_of(start: Path, *stages: Stage, prompts: tuple[str, ...] = PROMPTS) -> Recipe:
    return Recipe(
        "quick",
        "Quick",
        "A test.",
        str(start),
        stages or (Stage("a", "pretrain", "A", QUICK),),
        seed=3,
        num_threads=1,
        num_processes=1,
        sample_prompts=prompts,
    )


def of_kind(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["kind"] == kind]


def places(run: Run) -> list[tuple[str, int, str, str | None, int]]:
    return [
        (event["stage"], event["step"], event["point"], event["checkpoint"], event["number"])
        for event in of_kind(run, "sample")
    ]


def texts_of(folder: Path) -> list[str]:
    """Return what a checkpoint on disk writes after the prompts."""
    checkpoint = open_checkpoint_folder(folder)
    found = continue_prompts(
        load_model(checkpoint), checkpoint.tokenizer, checkpoint.end_tokens, PROMPTS
    )
    return [sampled.text for sampled in found]


@pytest.fixture
def ask_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Run], None]], None]:
    """Have something asked of a run right after a step, before it looks at its wishes."""
    wishes: dict[int, list[Callable[[Run], None]]] = {}
    original = Recorder.event

    def event(recorder: Recorder, kind: str, **values: object) -> None:
        original(recorder, kind, **values)
        if kind == "metrics":
            for ask in wishes.pop(int(str(values["step"])), []):
                ask(recorder.run)

    monkeypatch.setattr(Recorder, "event", event)
    return lambda step, ask: wishes.setdefault(step, []).append(ask)


def test_prompts_are_continued_from_the_start_model_to_the_last_checkpoint(
    tiny_model_folder: Path,
) -> None:
    stages = (Stage("expand", "expand", "Grow", GROWN), Stage("a", "pretrain", "A", QUICK))
    run = create(recipe_of(tiny_model_folder, *stages))
    assert execute(run) == 0
    points = [
        ("expand", 0, "base", None),
        ("expand", 0, "grown", "expand-000000"),
        ("a", 4, "checkpoint", "a-000004"),
        ("a", 6, "checkpoint", "a-000006"),
    ]
    assert places(run) == [(*point, number) for point in points for number in range(len(PROMPTS))]
    samples = of_kind(run, "sample")
    assert [event["text"] for event in samples[:2]] == texts_of(tiny_model_folder)
    for place, name in enumerate(("expand-000000", "a-000004", "a-000006"), start=1):
        own = samples[2 * place : 2 * place + 2]
        assert [event["text"] for event in own] == texts_of(run.checkpoints_folder / name), name
    last = samples[-1]
    assert (last["prompt"], last["seed"], last["tokens"]) == (PROMPTS[1], 0, 6 * 2 * 512)
    assert last["settings"] == {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 60}
    assert (last["precision"], last["stop_reason"]) == ("fp32", "token limit")


def test_a_run_that_only_trains_begins_with_its_start_model(tiny_model_folder: Path) -> None:
    settings = replace(QUICK, num_steps=1)
    stages = (Stage("a", "pretrain", "A", settings), Stage("b", "pretrain", "B", settings))
    run = create(recipe_of(tiny_model_folder, *stages))
    assert execute(run) == 0
    bases = [event for event in of_kind(run, "sample") if event["point"] == "base"]
    assert [(event["stage"], event["step"]) for event in bases] == [("a", 0)] * 2
    assert [event["text"] for event in bases] == texts_of(tiny_model_folder)


def test_samples_change_no_number(tiny_model_folder: Path) -> None:
    """No draw of theirs comes from a generator of the training, and no prompt: no sample."""
    told = create(recipe_of(tiny_model_folder))
    silent = create(recipe_of(tiny_model_folder, prompts=()))
    assert execute(told) == execute(silent) == 0
    assert metrics(told) == metrics(silent)
    assert of_kind(told, "sample") and not of_kind(silent, "sample")
    one, two = (
        load_model(open_checkpoint_folder(run.checkpoints_folder / "a-000006")).state_dict()
        for run in (told, silent)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_save_and_samples_are_written_when_asked_for(
    tiny_model_folder: Path, ask_after: Callable[[int, Callable[[Run], None]], None]
) -> None:
    for step, ask in (
        (1, ask_to_save),
        (2, ask_to_sample),
        (4, ask_to_save),  # as it is written anyway
        (6, ask_to_save),  # the stage's end is a checkpoint, too
    ):
        ask_after(step, ask)
    run = create(recipe_of(tiny_model_folder))
    assert execute(run) == 0
    saved = {event["name"]: event for event in of_kind(run, "checkpoint")}
    assert [(name, event["reason"]) for name, event in saved.items()] == [
        ("a-000001", "asked"),
        ("a-000004", "interval"),
        ("a-000006", "final"),
    ]
    for folder in list_checkpoints(run):
        event = saved[folder.name]
        assert event["bytes"] == sum(path.stat().st_size for path in folder.iterdir())
        assert event["seconds"] > 0 and event["tokens"] == event["step"] * 1024
    points = [(0, None), (1, "a-000001"), (2, None), (4, "a-000004"), (6, "a-000006")]
    found = [(step, name) for _, step, _, name, number in places(run) if number == 0]
    assert found == points
    assert not run.save_file.exists() and not run.sample_file.exists()
    undisturbed = create(recipe_of(tiny_model_folder))
    assert execute(undisturbed) == 0
    assert metrics(run) == metrics(undisturbed), "and no number is another for it"


def test_a_checkpoint_that_was_asked_for_counts_among_the_newest(
    tiny_model_folder: Path, ask_after: Callable[[int, Callable[[Run], None]], None]
) -> None:
    ask_after(5, ask_to_save)
    stage = Stage("a", "pretrain", "A", replace(QUICK, keep_last=2))
    run = create(recipe_of(tiny_model_folder, stage))
    assert execute(run) == 0
    assert [folder.name for folder in list_checkpoints(run)] == ["a-000005", "a-000006"]


def test_a_stopped_run_goes_on_from_its_own_checkpoint(
    tiny_model_folder: Path, ask_after: Callable[[int, Callable[[Run], None]], None]
) -> None:
    ask_after(3, ask_to_stop)
    run = create(recipe_of(tiny_model_folder))
    assert execute(run) == 0
    assert current_status(run).state == "stopped"
    (saved,) = of_kind(run, "checkpoint")
    assert (saved["name"], saved["reason"]) == ("a-000003", "stop")
    assert execute(run) == 0
    keys = [(step, number) for _, step, _, _, number in places(run)]
    assert len(keys) == len(set(keys)), "no sample is written twice"


def test_samples_lost_to_a_kill_are_all_that_is_lost(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint comes first; a run that goes on from it does not look back."""
    run = create(recipe_of(tiny_model_folder))
    original, calls = continue_prompts, []

    def die(*values: Any) -> Any:  # noqa: ANN401 - what it stands for takes them
        calls.append(values)
        if len(calls) == 2:  # the first is the start model
            raise RuntimeError("killed")
        return original(*values)

    with monkeypatch.context() as patch:
        patch.setattr("training.stages.samples.continue_prompts", die)
        with pytest.raises(RuntimeError, match="killed"):
            execute(run)
    assert [folder.name for folder in list_checkpoints(run)] == ["a-000004"]
    assert execute(run) == 0
    assert {step for _, step, _, _, _ in places(run)} == {0, 6}
    straight = create(recipe_of(tiny_model_folder))
    assert execute(straight) == 0
    assert metrics(run) == metrics(straight)


def test_arithmetic_is_told_as_a_share_of_the_peak(tiny_model_folder: Path) -> None:
    run = create(recipe_of(tiny_model_folder))
    assert execute(run) == 0
    (started,) = of_kind(run, "stage_started")
    assert started["ceiling_flops"] > 1e8
    for event in of_kind(run, "metrics"):
        done = event["tokens_per_second"] * started["flops_per_token"]
        assert event["mfu"] == pytest.approx(done / started["ceiling_flops"])


def test_a_peak_that_is_not_known_is_left_out(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.ceiling._measured", lambda *_: None)
    settings: PretrainSettings = replace(QUICK, num_steps=1)
    run = create(recipe_of(tiny_model_folder, Stage("a", "pretrain", "A", settings), prompts=()))
    assert execute(run) == 0
    (step,) = of_kind(run, "metrics")
    assert "mfu" not in step and of_kind(run, "stage_started")[0]["ceiling_flops"] is None
