"""Runs that are killed, starved and damaged at any moment, and end as if nothing had happened.

Every attempt is a real process with a real SIGKILL, disk or signal (see fork_server.py).
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from fork_server import ForkServer
from safetensors.torch import load_file
from tiny_recipe import PATIENCE_SECONDS, create, metrics, tiny_recipe

from stentor.runs import Run, create_run, current_status, list_checkpoints, read_events, tail_log
from training.recipe import Recipe, with_settings

NUM_KILLS = 10
STEPS = 12
FINAL = f"story-{STEPS:06d}"


def chaos_recipe(start_folder: Path) -> Recipe:
    """Return: expand, and two stages that save at every step; the second carries the moments."""
    recipe = tiny_recipe(start_folder)
    for name in ("general", "story"):
        recipe = with_settings(
            recipe,
            name,
            num_steps=STEPS,
            batch_size=2,
            checkpoint_every=1,
            validate_every=5,
            keep_last=3,
            keep_best=name == "story",
        )
    return with_settings(recipe, "story", carry_optimizer=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chaos-home")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ForkServer]:
    server = ForkServer(home)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def same_home(home: Path, stentor_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the runs of this process where the server's children look; after the shared fixture."""
    monkeypatch.setenv("STENTOR_HOME", str(home))


@pytest.fixture(scope="module")
def straight(tiny_model_folder: Path, home: Path, server: ForkServer) -> Run:
    """Return a run that nobody disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(home))
        run = create(chaos_recipe(tiny_model_folder))
    assert attempt(server, run) == 0, tail_log(run)
    return run


def attempt(server: ForkServer, run: Run, **faults: object) -> int:
    """Run once and return how it ended."""
    server.start(run.folder, **faults)  # type: ignore[arg-type]
    return server.wait()


def messages(run: Run, kind: str) -> list[str]:
    return [event["message"] for event in read_events(run) if event["kind"] == kind]


def assert_same(run: Run, straight: Run) -> None:
    """Every step that was ever taken has the numbers of the undisturbed run, and so do weights."""
    assert current_status(run).state == "finished", tail_log(run)
    expected = metrics(straight)
    assert metrics(run) == expected
    for event in read_events(run):
        if event["kind"] == "metrics":
            assert event["loss"] == expected[event["stage"], event["step"]][0], event
    for name in (f"general-{STEPS:06d}", FINAL):
        for file in ("model.safetensors", "optimizer.safetensors"):
            one, two = (r.checkpoints_folder / name / file for r in (straight, run))
            assert one.is_file() == two.is_file() == (file[0] == "m" or name != FINAL)
            if one.is_file():
                first, second = load_file(one), load_file(two)
                assert first.keys() == second.keys()
                for tensor in first:
                    assert torch.equal(first[tensor], second[tensor]), (name, tensor)


def num_steps_taken(run: Run) -> int:
    return sum(event["kind"] == "metrics" for event in read_events(run))


@dataclass(frozen=True)
class Pace:
    """Seconds of the undisturbed run: up to its first step, and from step to step."""

    start: float
    step: float


def pace_of(run: Run) -> Pace:
    events = list(read_events(run))
    steps = [event["t"] for event in events if event["kind"] == "metrics"]
    gaps = sorted(later - earlier for earlier, later in pairwise(steps))
    return Pace(steps[0] - events[0]["t"], gaps[len(gaps) // 2])


def kill_at_random(server: ForkServer, run: Run, dice: random.Random, pace: Pace) -> int:
    """Kill the run in its start, or within two steps: in one, its checkpoint or its pruning.

    No attempt comes far, so that ten kills fit into one run.
    """
    is_at_start = dice.random() < 0.3
    steps = num_steps_taken(run) + (0 if is_at_start else dice.randint(0, 1) + 1)
    pid = server.start(run.folder)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while num_steps_taken(run) < steps and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(dice.uniform(0, pace.start if is_at_start else pace.step))
    os.kill(pid, signal.SIGKILL)
    return server.wait()


def test_ten_kills_change_nothing(
    straight: Run, server: ForkServer, tiny_model_folder: Path
) -> None:
    dice, pace = random.Random(4), pace_of(straight)
    run = create(chaos_recipe(tiny_model_folder))
    ends = [kill_at_random(server, run, dice, pace) for _ in range(NUM_KILLS)]
    assert ends == [-signal.SIGKILL] * NUM_KILLS, "each of them was alive when it was killed"
    assert current_status(run).state == "died"
    assert attempt(server, run) == 0, tail_log(run)
    assert_same(run, straight)
    assert len([e for e in read_events(run) if e["kind"] == "resumed"]) >= 3
    assert not [p for p in run.checkpoints_folder.iterdir() if p.name.startswith(".")]


# Each pair is one attempt: the call before which it is killed, and how often that call came before.
# A checkpoint is nine or more fsyncs and a rename; pruning one is a rename and an rmtree.
POINTS = (
    ("rename", 1),  # the grown model is written, and has no name yet
    ("fsync", 3),  # in the middle of the files of the same checkpoint
    ("replace", 6),  # a status, beside and not yet in place
    ("rename", 2),  # the first checkpoint of the attempt has its name, the second has not
    ("rename", 5),  # an old checkpoint is about to go
    ("rmtree", 9),  # an old checkpoint is renamed and still there
    ("fsync", 27),
    ("replace", 9),
    ("rmtree", 4),
)


def test_a_kill_at_each_point_of_a_checkpoint_changes_nothing(
    straight: Run, server: ForkServer, tiny_model_folder: Path
) -> None:
    run = create(chaos_recipe(tiny_model_folder))
    for point in POINTS:
        assert attempt(server, run, die_at=point) == -signal.SIGKILL, (point, tail_log(run))
        for folder in list_checkpoints(run):
            assert (folder / "trainer.json").is_file(), "a checkpoint with its name is whole"
    assert attempt(server, run) == 0, tail_log(run)
    assert_same(run, straight)


def test_a_stop_at_any_step_changes_nothing(
    straight: Run, server: ForkServer, tiny_model_folder: Path
) -> None:
    run = create(with_options_of_rare_checkpoints(chaos_recipe(tiny_model_folder)))
    dice = random.Random(8)
    for _ in range(3):
        steps = num_steps_taken(run) + dice.randint(1, 4)
        pid = server.start(run.folder)
        while num_steps_taken(run) < steps:
            time.sleep(0.002)
        os.kill(pid, signal.SIGTERM)
        assert server.wait() == 0
        status = current_status(run)
        assert status.state == "stopped"
        assert status.checkpoint == f"{status.stage}-{status.step:06d}", "saved where it stopped"
    assert attempt(server, run) == 0, tail_log(run)
    assert metrics(run) == metrics(straight)


def with_options_of_rare_checkpoints(recipe: Recipe) -> Recipe:
    for name in ("general", "story"):
        recipe = with_settings(recipe, name, checkpoint_every=1000)
    return recipe


def unfinished_copy(run: Run) -> Run:
    """Return a copy of a finished run that still has to take the last step of its last stage."""
    values = json.loads(run.recipe_file.read_text())
    copy = create_run(values, "copy")
    shutil.copytree(run.folder, copy.folder, dirs_exist_ok=True)
    shutil.rmtree(copy.checkpoints_folder / FINAL)
    return copy


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "optimizer.safetensors",
        "config.json",
        "tokenizer.json",
        "trainer.json",
    ],
)
def test_one_flipped_bit_is_noticed_and_passed_over(
    straight: Run, server: ForkServer, name: str
) -> None:
    """Headers and sizes were checked, so a flipped bit in a weight once went on into training."""
    run = unfinished_copy(straight)
    newest = run.checkpoints_folder / f"story-{STEPS - 1:06d}"
    flip_a_bit(newest / name, random.Random(name))
    assert attempt(server, run) == 0, tail_log(run)
    (warning,) = [text for text in messages(run, "warning") if "passed over" in text]
    assert warning.startswith(f"Checkpoint {newest.name} is passed over: ")
    assert name in warning
    assert messages(run, "resumed")[-1] == f"Resumed from story-{STEPS - 2:06d}."
    assert_same(run, straight)


def flip_a_bit(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    position = dice.choice([at for at, byte in enumerate(data[:100_000]) if byte not in b" \n"])
    data[position] ^= 1
    path.write_bytes(bytes(data))


def test_a_file_too_large_for_the_disk_is_a_message_and_no_half_checkpoint(
    straight: Run, server: ForkServer
) -> None:
    """The limit is of the kernel (RLIMIT_FSIZE); what the trainer sees is a failing write."""
    run = unfinished_copy(straight)
    names = [folder.name for folder in list_checkpoints(run)]
    assert attempt(server, run, max_file=200_000) == 2, tail_log(run)
    status = current_status(run)
    assert status.state == "failed"
    assert str(status.error).startswith(f"Checkpoint {FINAL} could not be written to ")
    assert "File too large" in str(status.error) and "Free there: " in str(status.error)
    kept = f"Checkpoint story-{STEPS - 1:06d} is kept; resume goes on from it."
    assert str(status.error).endswith(kept)
    assert messages(run, "error")[-1] == status.error
    assert sorted(path.name for path in run.checkpoints_folder.iterdir()) == sorted(names)
    assert attempt(server, run) == 0, tail_log(run)
    assert_same(run, straight)


def test_no_room_for_the_text_is_a_message_and_what_is_there_is_kept(
    straight: Run, server: ForkServer
) -> None:
    run = unfinished_copy(straight)
    for folder in list_checkpoints(run):
        if folder.name.startswith("story"):
            shutil.rmtree(folder)
    shutil.rmtree(run.data_folder / "story")
    earlier = run.events_file.read_bytes()
    run.events_file.unlink()  # so that it is the text that does not fit
    assert attempt(server, run, max_file=15_000) == 2, tail_log(run)
    error = str(current_status(run).error)
    assert error.startswith(f"Prepared text could not be written to {run.data_folder}/story: ")
    assert "File too large. Free there: " in error
    assert error.endswith(f"Checkpoint general-{STEPS:06d} is kept; resume goes on from it.")
    run.events_file.write_bytes(earlier)
    assert attempt(server, run) == 0, tail_log(run)
    assert_same(run, straight)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_loses_nothing(
    straight: Run, server: ForkServer, tiny_model_folder: Path, small_disk: Path
) -> None:
    """Not even the word of it fits: the status then says `running` of a process that is gone."""
    home_run = create(chaos_recipe(tiny_model_folder))
    run = Run(small_disk / home_run.id)
    shutil.copytree(home_run.folder, run.folder)
    server.start(run.folder)
    while num_steps_taken(run) < STEPS + 2:
        time.sleep(0.002)
    ballast = small_disk / "ballast"
    fill(ballast)
    assert server.wait() == 2, tail_log(run)
    assert current_status(run).state in ("failed", "died")
    ballast.unlink()
    assert attempt(server, run) == 0, tail_log(run)
    assert_same(run, straight)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    stream.write(bytes(size))
            except OSError:
                continue
