"""Whole runs as real processes: killed, stopped and resumed, they give the numbers of one that ran.

The runs of this file are made once: one from start to end, and one that is killed with `kill -9`,
resumed, stopped through its file, resumed, sent TERM and resumed again.
"""

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_recipe import (
    CHECKPOINT_EVERY,
    NUM_STEPS,
    PATIENCE_SECONDS,
    create,
    final_weights,
    losses,
    metrics,
    run_to_its_end,
    tiny_recipe,
    wait_for_step,
)

from stentor import jobs
from stentor.errors import OptionError, RunError
from stentor.loading import open_checkpoint_folder, read_json
from stentor.runs import (
    Run,
    Status,
    current_status,
    list_checkpoints,
    read_events,
    read_status,
    tail_log,
    write_status,
)
from training.integrity import TRAINER_FILE, write_sealed
from training.recipe import Recipe
from training.recipes import find_recipe
from training.runner import check_machine, execute, locate_start
from training.settings import Source

pytestmark = pytest.mark.usefixtures("old_signals")

ROOT = Path(__file__).resolve().parent.parent
FINAL = f"story-{NUM_STEPS:06d}"


@dataclass(frozen=True)
class Histories:
    """Two finished runs of one recipe, and the states in which the second was found on its way."""

    straight: Run
    broken: Run
    found: tuple[Status, ...]


@pytest.fixture(scope="module")
def histories(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Histories]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPACE_ID", raising=False)
        recipe = tiny_recipe(tiny_model_folder)
        straight, broken = create(recipe), create(recipe)
        assert run_to_its_end(straight) == "finished", tail_log(straight)
        yield Histories(straight, broken, _break(broken))


def _break(run: Run) -> tuple[Status, ...]:
    """Interrupt the run three times and let it end; return what was found each time."""
    found: list[Status] = []
    for stage, step, number in (
        ("general", CHECKPOINT_EVERY + 2, signal.SIGKILL),
        ("story", 2, None),
        ("story", CHECKPOINT_EVERY + 2, signal.SIGTERM),
    ):
        offset = run.events_file.stat().st_size if run.events_file.exists() else 0
        jobs.start(run, "resume" if found else "run")
        wait_for_step(run, stage, step, offset)
        pid = current_status(run).pid
        assert pid is not None
        jobs.ask_to_stop(run) if number is None else os.kill(pid, number)
        assert jobs.wait_until_ended(run, PATIENCE_SECONDS), tail_log(run)
        found.append(current_status(run))
    assert run_to_its_end(run, "resume") == "finished", tail_log(run)
    return tuple(found)


def of_kind(run: Run, kind: str) -> list[dict[str, object]]:
    return [event for event in read_events(run) if event["kind"] == kind]


def samples(run: Run) -> dict[tuple[object, ...], object]:
    """Return the texts by where and after what they were written; the last one wins."""
    names = ("stage", "step", "point", "number")
    return {tuple(e[name] for name in names): e["text"] for e in of_kind(run, "sample")}


def test_a_run_tells_its_whole_story(histories: Histories) -> None:
    run = histories.straight
    status = current_status(run)
    assert (status.state, status.error) == ("finished", None)
    assert (status.stage, status.step, status.total_steps) == ("story", NUM_STEPS, NUM_STEPS)
    assert status.finished_stages == ("expand", "general", "story")
    assert status.checkpoint == FINAL
    counts = Counter(event["kind"] for event in read_events(run))
    expected = {"machine": 1, "stage_started": 3, "stage_finished": 3, "growth": 1}
    # Four prompts: by the start model, the grown one and three checkpoints of each stage.
    expected["sample"] = 4 * (1 + 1 + 2 * 3)
    # Validated when asked for (0, 6, 12), and at checkpoints (4, 8), to know the best of them.
    expected |= {"metrics": 2 * NUM_STEPS, "validation": 2 * 5, "checkpoint": 1 + 2 * 3}
    assert {kind: counts[kind] for kind in expected} == expected
    assert not counts["error"] and not counts["warning"]
    tokens = [event["tokens"] for event in of_kind(run, "metrics")]
    assert tokens == [4 * 512 * step for step in range(1, 2 * NUM_STEPS + 1)]
    for finished in of_kind(run, "stage_finished")[1:]:
        assert finished["loss"] and finished["validation_loss"]
    assert "Finished." in tail_log(run)


def test_a_run_leaves_checkpoints_that_open(histories: Histories) -> None:
    run = histories.straight
    names = {path.name for path in list_checkpoints(run)}
    assert names == {"expand-000000", "general-000008", "general-000012", "story-000008", FINAL}
    for folder in list_checkpoints(run):
        assert open_checkpoint_folder(folder).shape.hidden_size == 64
    trainer = json.loads((run.checkpoints_folder / FINAL / "trainer.json").read_text())
    assert (trainer["stage"], trainer["step"], trainer["is_final"]) == ("story", NUM_STEPS, True)
    assert trainer["tokens"] == 2 * NUM_STEPS * 4 * 512
    assert trainer["run"] == run.id and trainer["versions"]["torch"] == torch.__version__
    hidden = [path.name for path in run.checkpoints_folder.iterdir() if path.name[0] == "."]
    assert hidden == []


def test_training_taught_it_something(histories: Histories) -> None:
    values = metrics(histories.straight)
    assert values["story", NUM_STEPS][0] < values["general", 1][0] - 1


def test_a_killed_run_reads_as_died_and_a_stopped_one_as_stopped(histories: Histories) -> None:
    killed, stopped, terminated = histories.found
    assert killed.state == "died"
    assert str(killed.error).endswith(" of general: the process ended without a word.")
    assert killed.finished_stages == ("expand",)
    assert (stopped.state, stopped.stage, stopped.error) == ("stopped", "story", None)
    assert stopped.finished_stages == ("expand", "general")
    assert terminated.state == "stopped"
    # Stopping saves at the very step, whatever the interval.
    assert stopped.checkpoint == f"story-{stopped.step:06d}" and 2 <= stopped.step < NUM_STEPS
    assert terminated.checkpoint == f"story-{terminated.step:06d}"
    assert stopped.step < terminated.step < NUM_STEPS


def test_a_resumed_run_is_the_run_that_was_not_interrupted(histories: Histories) -> None:
    """Number for number: losses, gradient norms, rates, held-out losses, samples and weights."""
    straight, broken = histories.straight, histories.broken
    assert metrics(broken) == metrics(straight)
    assert losses(broken, "validation") == losses(straight, "validation")
    for key, text in samples(straight).items():
        assert samples(broken)[key] == text, key
    first, second = final_weights(straight), final_weights(broken)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_repeated_steps_repeat_their_numbers(histories: Histories) -> None:
    """What the killed process did after its last checkpoint is done again, and is the same."""
    values = [event for event in of_kind(histories.broken, "metrics")]
    repeats = Counter((event["stage"], event["step"]) for event in values)
    assert [key for key, count in repeats.items() if count > 1][:2] == [
        ("general", CHECKPOINT_EVERY + 1),
        ("general", CHECKPOINT_EVERY + 2),
    ]
    assert max(repeats.values()) == 2
    expected = metrics(histories.straight)
    for event in values:
        assert event["loss"] == expected[event["stage"], event["step"]][0]  # type: ignore[index]


def test_a_finished_stage_is_never_run_twice(histories: Histories) -> None:
    started = Counter(event["stage"] for event in of_kind(histories.broken, "stage_started"))
    assert started == {"expand": 1, "general": 2, "story": 3}
    resumed = [event["stage"] for event in of_kind(histories.broken, "resumed")]
    assert resumed == ["general", "story", "story"]
    assert len(of_kind(histories.broken, "growth")) == 1


def copy_of(run: Run, folder: Path) -> Run:
    """Return a copy of a run, to be damaged and executed in this process."""
    shutil.copytree(run.folder, folder / run.id)
    return Run(folder / run.id)


def test_a_damaged_final_checkpoint_is_made_again_from_the_one_before(
    histories: Histories, tmp_path: Path
) -> None:
    run = copy_of(histories.straight, tmp_path)
    weights = run.checkpoints_folder / FINAL / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert execute(run) == 0
    was_finished, damage = [str(event["message"]) for event in of_kind(run, "warning")]
    assert was_finished.startswith(f"Stage story was finished, and its checkpoint {FINAL} is gone ")
    assert damage.startswith(f"Checkpoint {FINAL} is passed over: ")
    for name, tensor in final_weights(histories.straight).items():
        assert torch.equal(tensor, final_weights(run)[name]), name
    status = read_status(run)
    assert (status.state, status.finished_stages) == ("finished", ("expand", "general", "story"))


def test_a_kill_between_the_last_checkpoint_and_its_news_loses_no_news(
    histories: Histories, tmp_path: Path
) -> None:
    """The stage was on the disk, and the chart showed it as unfinished for ever."""
    run = copy_of(histories.straight, tmp_path)
    write_status(run, replace(read_status(run), state="running", finished_stages=("expand",)))
    before = len(list(read_events(run)))
    assert execute(run) == 0
    news = list(read_events(run))[before:]
    told = [event for event in news if event["kind"] == "stage_finished"]
    assert told == [
        {**event, "t": new["t"]}
        for event, new in zip(of_kind(histories.straight, "stage_finished")[1:], told, strict=True)
    ]
    assert not [event for event in news if event["kind"] == "stage_started"]
    assert read_status(run).finished_stages == ("expand", "general", "story")


def by_hand(recipe: Recipe) -> tuple[Run, int]:
    """Run the exact command of a run in the foreground; return the exit code."""
    run = create(recipe)
    with run.log_file.open("ab") as log:
        code = subprocess.run(
            jobs.command_for(run, "run"), cwd=ROOT, stdout=log, stderr=log, check=False
        ).returncode
    return run, code


def test_a_missing_file_fails_with_its_name_before_the_first_stage(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """A run once trained its first stages for days before it looked for the text of the next."""
    path = tmp_path / "story.txt"
    run, code = by_hand(tiny_recipe(tiny_model_folder, (Source(kind="files", paths=(str(path),)),)))
    assert code == 2
    status = current_status(run)
    message = str(status.error)
    assert message.startswith(f"Stage general: {path} does not exist. Give text with --text ")
    assert (status.state, status.stage, list_checkpoints(run)) == ("failed", None, [])
    assert [event["message"] for event in of_kind(run, "error")] == [message]
    log = tail_log(run)
    assert f"Failed: {message}" in log and "Traceback" not in log


def test_a_diverged_step_is_recorded_and_never_saved(histories: Histories, tmp_path: Path) -> None:
    """A step that diverged was once saved as that step; for the last one see test_pretrain."""
    run = copy_of(histories.straight, tmp_path)
    shutil.rmtree(run.checkpoints_folder / FINAL)
    spoil_weights(run.checkpoints_folder / "story-000008" / "model.safetensors")
    assert execute(run) == 2
    status = read_status(run)
    assert status.state == "failed"
    assert "at step 9: training has diverged" in str(status.error)
    last = of_kind(run, "metrics")[-1]
    assert last["step"] == 9 and last["loss"] != last["loss"], "the chart shows the NaN"
    names = [path.name for path in list_checkpoints(run)]
    assert [name for name in names if name.startswith("story")] == ["story-000008"]


def spoil_weights(path: Path) -> None:
    """Make one gain of a checkpoint NaN, as if training had written it so."""
    tensors = load_file(path)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    write_sealed(path.parent, read_json(path.parent / TRAINER_FILE))


def test_text_without_the_column_stops_a_run_before_its_first_stage(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The second text of a run was once found unreadable when the first had trained for days."""
    path = tmp_path / "story.jsonl"
    path.write_text('{"story": "One morning."}\n')
    run = create(tiny_recipe(tiny_model_folder, (Source(kind="files", paths=(str(path),)),)))
    assert execute(run) == 2
    status = read_status(run)
    assert str(status.error).startswith("Stage general: ") and str(path) in str(status.error)
    assert (status.stage, list_checkpoints(run)) == (None, [])


def test_more_processes_than_windows_are_refused_before_anything_starts(
    tiny_model_folder: Path,
) -> None:
    run = create(replace(tiny_recipe(tiny_model_folder), num_processes=5))
    assert execute(run) == 2
    status = read_status(run)
    assert status.state == "failed"
    if not torch.cuda.is_available():
        assert str(status.error).startswith("5 processes cannot share the 4 window(s) of a step")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_cards_recipe_is_refused_on_a_cpu() -> None:
    with pytest.raises(OptionError, match=r"trains on [\d,]+ tokens and this machine has no CUDA"):
        check_machine(find_recipe("card"))
    check_machine(find_recipe("practice"))
    check_machine(find_recipe("demo-pair"))


def test_a_model_that_was_never_fetched_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RunError, match="hf download StentorLabs/Stentor-30M"):
        locate_start(find_recipe("card"))
    assert locate_start(find_recipe("demo-pair")) is None
