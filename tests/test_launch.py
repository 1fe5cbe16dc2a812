"""How many processes train, and what ends with what. Whole runs: test_two_process_runs.py."""

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipe import TRAINING, create, tiny_recipe

from stentor.errors import OptionError
from stentor.jobs import wait_until_ended
from stentor.run_queue import enqueue
from stentor.runs import create_run, current_status, process_start, read_status
from training.launch import check_shares, launch_command, num_processes, smallest_batch
from training.recipe import Recipe, Stage

ROOT = Path(__file__).resolve().parent.parent
# A launcher with one worker, which waits for ever; `platform` decides how the worker is tied.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(600)
"""
CHILD = """
import os, sys, time
from pathlib import Path
from training import launch
sys.platform = sys.argv[1].split()[0]
launch.end_with(os.getppid())
Path(sys.argv[1].split()[1]).write_text(str(os.getpid()))
time.sleep(600)
"""
# A main worker that the kernel kills, as it does where memory runs out.
KILLED_WORKER = """
import os, signal, sys
from pathlib import Path
from stentor.jobs import claim
from stentor.runs import Run
claim(Run(Path(sys.argv[1])))
os.kill(os.getpid(), signal.SIGKILL)
"""
ORPHAN = "import os; from training import launch; launch.end_with(os.getppid() + 1)"


@pytest.fixture
def recipe(tiny_model_folder: Path) -> Recipe:
    return tiny_recipe(tiny_model_folder)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(("num_gpus", "expected"), [(0, 1), (1, 1), (2, 2), (8, 4)])
def test_a_recipe_that_asks_for_nothing_gets_a_process_for_each_gpu(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, num_gpus: int, expected: int
) -> None:
    """Of eight GPUs four are used: a step has four windows."""
    with_gpus(monkeypatch, num_gpus)
    assert num_processes(replace(recipe, num_processes=None)) == expected


def test_a_recipe_gets_what_it_asks_for(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    assert num_processes(replace(recipe, num_processes=3)) == 3
    with_gpus(monkeypatch, 2)
    assert num_processes(replace(recipe, num_processes=1)) == 1


def test_more_than_makes_sense_is_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 0)
    with pytest.raises(OptionError, match=r"5 processes cannot share the 4 window\(s\) of a step"):
        num_processes(replace(recipe, num_processes=5))
    with_gpus(monkeypatch, 2)
    with pytest.raises(OptionError, match=r"asks for 3 processes and this machine has 2 GPU\(s\)"):
        num_processes(replace(recipe, num_processes=3))


def test_a_recipe_that_names_gpus_gets_these_or_none(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without GPU 3 it would have trained on the CPU, for years."""
    named = replace(recipe, num_processes=None, devices="1,3")
    with_gpus(monkeypatch, 4)  # as the preflight sees them; the run's own process sees two
    assert num_processes(named) == 2
    with pytest.raises(OptionError, match=r"asks for 3 processes and this machine has 2 GPU\(s\)"):
        num_processes(replace(named, num_processes=3))
    for there in (0, 1):
        with_gpus(monkeypatch, there)
        with pytest.raises(OptionError, match=rf"GPU 1, 3, and of these this machine has {there}"):
            num_processes(named)


def test_a_process_that_accelerate_left_alone_is_refused(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch --cpu` on two machines once gave two main workers in one run folder."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert num_processes(replace(recipe, num_processes=1)) == 1
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(OptionError, match="as if it were alone"):
        num_processes(recipe)


def test_the_stage_with_the_smallest_batch_decides(recipe: Recipe) -> None:
    small = Stage("small", "pretrain", "Small", replace(TRAINING, batch_size=2))
    recipe = replace(recipe, stages=(*recipe.stages, small))
    assert smallest_batch(recipe) == 2
    check_shares(recipe, 2)
    with pytest.raises(OptionError, match="Use fewer processes, or a larger batch size"):
        check_shares(recipe, 3)
    assert smallest_batch(replace(recipe, stages=recipe.stages[:1])) == 1, "nothing to train"


def test_the_command_is_torchrun(recipe: Recipe) -> None:
    run = create(recipe)
    command = launch_command(run, 2)
    assert command[:4] == [sys.executable, "-m", "training.launcher", "--standalone"]
    assert command[4:] == ["--nproc-per-node", "2", "-m", "training", "run", str(run.folder)]


@pytest.mark.parametrize("platform", ["linux", "another"])
def test_a_worker_never_outlives_its_launcher(platform: str, tmp_path: Path) -> None:
    """`kill -9` of a launcher once left workers that wrote on into a run that was being resumed."""
    note = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, f"{platform} {note}"], cwd=ROOT, process_group=0
    )
    deadline = time.monotonic() + 120
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    worker = int(note.read_text())
    assert process_start(worker)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(timeout=30)
    while process_start(worker):
        assert time.monotonic() < deadline, "the worker went on"
        time.sleep(0.02)


def test_a_worker_whose_launcher_is_gone_already_ends_at_once() -> None:
    assert subprocess.run([sys.executable, "-c", ORPHAN], cwd=ROOT, check=False).returncode == -9


def test_a_launcher_closes_the_run_of_a_killed_main_worker_and_hands_on(tmp_path: Path) -> None:
    """Nobody else was there to write it, and the line of runs stood still."""
    script = tmp_path / "worker.py"
    script.write_text(KILLED_WORKER)
    run, following = create_run({}, "first"), create_run({}, "following")
    enqueue(following)
    command = [sys.executable, "-m", "training.launcher", "--standalone", "--nproc-per-node", "1"]
    line = shlex.join([*command, str(script), str(run.folder)])
    # The shell becomes the launcher, as a run does: its pid stays.
    shell = f"STENTOR_LAUNCHER=$$ PYTHONPATH={shlex.quote(str(ROOT))} exec {line}"
    ended = subprocess.run(["/bin/sh", "-c", shell], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 1, ended.stderr
    status = read_status(run)
    assert status.state == "failed"
    assert str(status.error).startswith("The process that writes this run ended without a word")
    assert f"Started the next run in line: {following.id}" in ended.stdout.decode()
    assert wait_until_ended(following, 240)
    assert current_status(following).state == "failed", "its recipe is none"
