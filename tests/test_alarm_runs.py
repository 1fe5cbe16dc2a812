"""Alarms of real runs: one that has every trouble, one that has none, one whose loss is NaN.

The trouble is real where a test can make it: a batch of noise, a slow disk, a hanging batch, a rate
at which nothing is learnt, no room. The temperature alone is made up, where the driver would tell.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from alarm_events import gpu
from safetensors.torch import load_file, save_file
from tiny_recipe import PATIENCE_SECONDS, TRAINING, create
from webhook_server import receiver

from stentor.notify import WEBHOOK_VARIABLE
from stentor.runs import Run, read_events, read_status, tail_log
from training.alarm_settings import AlarmSettings
from training.hardware import sample_load
from training.recipe import Recipe, Stage
from training.runner import execute
from training.stage_data import StageData

pytestmark = pytest.mark.usefixtures("old_signals")

NOISE_STEPS = range(39, 42)  # 0-based
HANGING_STEP = 52
SLOW_STEPS = range(64, 100)
NUM_STEPS = 100
NERVOUS = AlarmSettings(
    spike_deviations=2.0,
    plateau_steps=8,
    stall_factor=2.0,
    stall_seconds=1.0,
    throughput_seconds=0.0,
    disk_free_gigabytes=100_000.0,
)
ALL = {"spike", "plateau", "stall", "slow", "hot_gpu", "throttled_gpu", "disk_low"}


def recipe_of(start: Path, alarms: AlarmSettings, num_steps: int) -> Recipe:
    settings = replace(
        TRAINING,
        num_steps=num_steps,
        learning_rate=1e-2,
        validate_every=num_steps,
        checkpoint_every=num_steps // 2,
        final_fraction=0.2,
        max_epochs=1_000.0,
    )
    return Recipe(
        name="alarms",
        title="Alarms",
        purpose="A run that ends in seconds.",
        start=str(start),
        stages=(Stage("general", "pretrain", "General", settings),),
        num_threads=1,
        num_processes=1,
        sample_prompts=("One morning the",),
        alarms=alarms,
    )


def alarms_of(run: Run) -> list[dict[str, Any]]:
    return [event for event in read_events(run) if event["kind"] == "alarm"]


def states_of(run: Run, name: str) -> list[str]:
    return [event["state"] for event in alarms_of(run) if event["alarm"] == name]


@dataclass(frozen=True)
class Trouble:
    """A finished run that had every trouble, and the messages that were sent."""

    run: Run
    messages: list[dict[str, Any]]


def troubled(run: Run, batch_of_step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return the reading of batches with noise for text, a disk that hangs, and a slow one."""
    noise = torch.Generator().manual_seed(3)

    def read(self: StageData, step: int, batch_size: int) -> torch.Tensor:
        batch = batch_of_step(self, step, batch_size)
        if step in NOISE_STEPS:
            return torch.randint(1, 300, batch.shape, generator=noise)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while step == HANGING_STEP and not states_of(run, "stall"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if step in SLOW_STEPS:
            time.sleep(0.1)
        return batch

    return read


@pytest.fixture(scope="module")
def trouble(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trouble:
    with pytest.MonkeyPatch.context() as patch, receiver() as server:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv(WEBHOOK_VARIABLE, server.address)
        patch.delenv("SPACE_ID", raising=False)
        run = create(recipe_of(tiny_model_folder, NERVOUS, NUM_STEPS))
        patch.setattr(StageData, "batch_of_step", troubled(run, StageData.batch_of_step))
        hot = gpu(temperature=91.0, throttle=["thermal"])
        patch.setattr(
            "training.recorder.sample_load", lambda folder: {**sample_load(folder), "gpu": [hot]}
        )
        patch.setattr("training.recorder.HEARTBEAT_SECONDS", 0.05)
        patch.setattr("training.recorder.LOAD_SECONDS", 0.05)
        assert execute(run) == 0
    return Trouble(run, server.messages)


@pytest.mark.parametrize("name", sorted(ALL))
def test_each_trouble_of_a_real_run_raises_its_alarm(trouble: Trouble, name: str) -> None:
    states = states_of(trouble.run, name)
    assert states[:1] == ["raised"]
    assert all(one != other for one, other in pairwise(states)), states


def test_alarms_say_where_the_trouble_was(trouble: Trouble) -> None:
    first = {event["alarm"]: event for event in reversed(alarms_of(trouble.run))}
    assert first["spike"]["step"] == NOISE_STEPS[0] + 1
    assert first["spike"]["value"] > first["spike"]["limit"]
    assert first["stall"]["step"] == HANGING_STEP
    assert "The process is at training.stages.pretraining." in first["stall"]["message"]
    assert SLOW_STEPS[0] < first["slow"]["step"] <= SLOW_STEPS[-1] + 1
    assert first["hot_gpu"]["value"] == 91.0
    assert {event["stage"] for event in first.values()} <= {"general", None}


def test_what_is_over_is_cleared_and_what_is_not_stays(trouble: Trouble) -> None:
    assert states_of(trouble.run, "spike")[:2] == ["raised", "cleared"]
    assert states_of(trouble.run, "stall")[:2] == ["raised", "cleared"]
    for name in ("slow", "hot_gpu", "throttled_gpu", "disk_low"):
        assert states_of(trouble.run, name)[-1] == "cleared", "nothing runs any more"


def test_every_alarm_and_the_end_reach_the_webhook_in_order(trouble: Trouble) -> None:
    told = [(message["alarm"], message["state"]) for message in trouble.messages]
    assert told[-1] == ("end", "finished")
    assert {name for name, _ in told} == {*ALL, "end"}
    written = [(event["alarm"], event["state"]) for event in alarms_of(trouble.run)]
    at_the_end = [pair for pair in written if pair not in told]
    assert [pair for pair in written if pair in told] == told[:-1]
    assert all(state == "cleared" for _, state in at_the_end), "these go without saying"
    assert trouble.messages[-1]["message"] == f"At step {NUM_STEPS} of general."


def test_the_address_is_in_no_file_of_the_run(trouble: Trouble) -> None:
    for path in trouble.run.folder.rglob("*"):
        if path.is_file():
            assert b"/hooks/" not in path.read_bytes(), path


def test_a_healthy_run_raises_nothing(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = create(recipe_of(tiny_model_folder, AlarmSettings(disk_free_gigabytes=0.0), 40))
    assert execute(run) == 0
    assert alarms_of(run) == []
    assert "larm" not in capsys.readouterr().out


@pytest.fixture
def spoilt_model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """Return a model one of whose gains is NaN."""
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny_model_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_loss_that_is_no_number_is_an_alarm_and_a_failed_end(
    spoilt_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(recipe_of(spoilt_model, AlarmSettings(disk_free_gigabytes=0.0), 40))
    with receiver() as server:
        monkeypatch.setenv(WEBHOOK_VARIABLE, server.address)
        assert execute(run) == 2
        told = [(message["alarm"], message["state"]) for message in server.messages]
    assert told == [("not_finite", "raised"), ("end", "failed")]
    assert states_of(run, "not_finite") == ["raised"], "nothing is well again"
    assert server.messages[-1]["message"] == read_status(run).error


def test_a_bad_address_is_said_at_the_start_and_ends_nothing(
    tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, "hooks.example.org/s3cret")
    run = create(recipe_of(tiny_model_folder, AlarmSettings(), 4))
    assert execute(run) == 0
    warnings = [event["message"] for event in read_events(run) if event["kind"] == "warning"]
    assert [text for text in warnings if text.startswith("STENTOR_WEBHOOK is no address")]
    out = capsys.readouterr().out
    assert "Warning: STENTOR_WEBHOOK is no address" in out.split("Stage general")[0]
    assert "s3cret" not in out + run.events_file.read_text() + tail_log(run)
