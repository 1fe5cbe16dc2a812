"""The Trainer beside our loop: the card's settings, the same loss, nothing written elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stentor.loading import open_checkpoint_folder
from training.bench import own_loop, trainer_peer
from training.bench.clock import StepClock
from training.bench.plan import OURS, TRAINER, Line, TrainJob
from training.bench.subjects import write_windows
from training.checkpoint import load_model

BATCH_SIZE = 4


@pytest.fixture
def job(tiny_model_folder: Path, tmp_path: Path) -> TrainJob:
    file = tmp_path / "windows.npy"
    write_windows(open_checkpoint_folder(tiny_model_folder), 2 * BATCH_SIZE, file)
    (tmp_path / "work").mkdir()
    return TrainJob(
        line=Line(TRAINER, "fp32", is_checkpointed=True),
        folder=str(tiny_model_folder),
        windows_file=str(file),
        work_folder=str(tmp_path / "work"),
        device="cpu",
        batch_size=BATCH_SIZE,
        micro_batch_size=2,
        warmup_steps=1,
        num_steps=1,
        num_threads=1,
    )


def test_both_compute_the_loss_of_the_first_batch(
    job: TrainJob, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "work")
    windows = torch.from_numpy(np.load(job.windows_file)[:BATCH_SIZE])
    with torch.no_grad():
        model = load_model(open_checkpoint_folder(tiny_model_folder))
        expected = float(model(windows, labels=windows).loss)
    for is_checkpointed in (True, False):
        theirs = trainer_peer.measure(replace(job, line=Line(TRAINER, "fp32", is_checkpointed)))
        ours = own_loop.measure(replace(job, line=Line(OURS, "fp32", is_checkpointed)))
        for answer in (theirs, ours):
            assert answer.first_loss == pytest.approx(expected, rel=1e-5)
            assert answer.num_tokens == BATCH_SIZE * 512
            assert answer.seconds > 0 and answer.peak_bytes > 0
        assert ours.predicted_bytes > 0
    written = set(tmp_path.rglob("*")) - before
    assert {path.relative_to(tmp_path).parts[0] for path in written} <= {"work", "stentor-home"}


def test_the_trainer_gets_the_cards_settings(job: TrainJob) -> None:
    arguments = trainer_peer.training_arguments(job)
    settings = own_loop.settings_of(job)
    assert (arguments.learning_rate, arguments.weight_decay) == (2e-4, 0.01)
    assert (arguments.max_grad_norm, arguments.lr_scheduler_type) == (1.0, "cosine")
    assert arguments.warmup_steps == settings.warmup_fraction == 0.05
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 4
    assert arguments.activation_checkpointing and not arguments.bf16
    assert arguments.optim == "adamw_torch_fused"
    assert arguments.report_to == []
    assert settings.total_steps() == arguments.max_steps == 2
    assert (settings.learning_rate, settings.weight_decay, settings.clip_norm) == (2e-4, 0.01, 1.0)
    assert (settings.schedule, settings.final_fraction) == ("cosine", 0.0)


def test_the_windows_are_full_and_closed(job: TrainJob) -> None:
    windows = np.load(job.windows_file)
    assert windows.shape == (2 * BATCH_SIZE, 512) and windows.dtype == np.int64
    assert (windows[:, -1] == 0).all()
    assert len(np.unique(windows, axis=0)) == len(windows)


def test_the_clock_leaves_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 13.5))
    monkeypatch.setattr("training.bench.clock.time.perf_counter", lambda: next(times))
    clock = StepClock("cpu", warmup_steps=2, num_steps=3)
    for step in (1, 2, 3, 4, 5):
        clock.step_ended(step)
    assert clock.seconds == 3.5
