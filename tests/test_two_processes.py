"""Two processes that train together give the numbers of one; both are started once, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from two_workers import NUM_STEPS, SETTINGS, batch_of_step, held_out, train

from training.loop import validation_loss
from training.workers import Workers

TESTS = Path(__file__).resolve().parent
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def outputs(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which each worker left what it saw."""
    folder = tmp_path_factory.mktemp("workers")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    script = [str(TESTS / "two_workers.py"), str(tiny_model_folder), str(folder)]
    subprocess.run(
        [*launcher, "--nproc-per-node", "2", *script],
        cwd=TESTS.parent,
        env={
            **os.environ,
            "PYTHONPATH": str(TESTS.parent),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        },
        check=True,
        timeout=240,
    )
    return folder


@pytest.fixture(scope="module")
def seen(outputs: Path) -> list[dict[str, Any]]:
    return [json.loads((outputs / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_give_the_losses_of_one(
    seen: list[dict[str, Any]], outputs: Path, tiny_model_folder: Path
) -> None:
    """Fifty steps of five windows: three of them on one worker, two on the other."""
    alone = Workers(torch.device("cpu"))
    network, steps = train(tiny_model_folder, SETTINGS, alone)
    reports = list(steps)
    assert len(seen[0]["losses"]) == NUM_STEPS
    assert reports[-1].loss < reports[0].loss - 0.5
    assert seen[0]["losses"] == pytest.approx([r.loss for r in reports], abs=TOLERANCE)
    norms = [report.gradient_norm for report in reports]
    assert seen[0]["norms"] == pytest.approx(norms, rel=10 * TOLERANCE)
    validation = validation_loss(network, held_out(), alone)
    assert seen[0]["validation"] == pytest.approx(validation, abs=TOLERANCE)
    for name, value in load_file(outputs / "0.safetensors").items():
        assert torch.allclose(value, network.state_dict()[name], atol=1e-3), name


def test_both_workers_have_the_same_bits(seen: list[dict[str, Any]], outputs: Path) -> None:
    for name in ("losses", "norms", "validation"):
        assert seen[0][name] == seen[1][name], name
    first, second = (load_file(outputs / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_rows_are_shared_and_wishes_agreed_on(seen: list[dict[str, Any]]) -> None:
    assert [len(worker["rows"]) for worker in seen] == [3, 2]
    assert seen[0]["rows"] + seen[1]["rows"] == batch_of_step(0)[:, 0].tolist()
    for worker in seen:
        assert worker["any"] == [True, False]
        assert worker["any_of"] == [True, True, False], "each flag on its own"
        assert worker["of_main"] == 7, "the other gave 8"
        assert worker["mean"] == [0.5, 4.0]
        assert worker["threads"] == 1


def test_a_nan_on_one_worker_stops_both_before_the_step(seen: list[dict[str, Any]]) -> None:
    """Had each decided for itself, one would have taken the step and waited for ever."""
    for worker in seen:
        step, is_finite, message, weights_are_kept = worker["diverged"]
        assert (step, is_finite, weights_are_kept) == (2, False, True)
        assert "at step 2: training has diverged" in message
