"""`python -m stentor eval` on a tiny model: what it prints, and what an interrupt leaves."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from stentor.errors import OptionError
from stentor.evaluation import add_eval_arguments, run_eval
from stentor.evaluation_store import list_evaluations, num_results, read_results
from stentor.home import assets_folder

WAIT_SECONDS = 60.0
CHILD = """
import argparse
from stentor.evaluation import add_eval_arguments, run_eval
parser = argparse.ArgumentParser()
add_eval_arguments(parser)
run_eval(parser.parse_args())
"""


@pytest.fixture
def models(tiny_model_folder: Path) -> list[str]:
    return ["--model", str(tiny_model_folder), "--model", str(tiny_model_folder)]


def parse(*flags: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_eval_arguments(parser)
    return parser.parse_args(flags)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has_results(at_least: int) -> bool:
    return any(num_results(evaluation) >= at_least for evaluation in list_evaluations())


def test_it_prints_json_and_exports(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.csv"
    flags = [*models, "--category", "mathematics", "--seed", "5", "--json", "--export", str(file)]
    flags += ["--precision", "fp32", "--threads", "1"]
    assert run_eval(parse(*flags, "--max-new-tokens", "2", "--temperature", "0")) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values["state"] == "finished" and len(values["results"]) == 20
    assert values["settings"]["seed"] == 5
    assert [model["precision"] for model in values["models"]] == ["fp32", "fp32"]
    assert values["sampling"]["mathematics"]["min_p"] == 0.0
    assert "[20/20] " in printed.err
    assert len(file.read_text().splitlines()) >= 21


def test_ctrl_c_keeps_and_prints_partial_results(
    models: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        wait_for(lambda: has_results(1))
        os.kill(os.getpid(), signal.SIGINT)

    hand = Thread(target=interrupt)
    hand.start()
    assert run_eval(parse(*models, "--max-new-tokens", "300")) == 130
    hand.join()
    printed = capsys.readouterr()
    assert ": stopped, " in printed.out and "Kept in " in printed.out
    assert "what is finished is kept" in printed.err


def test_kill_9_keeps_every_finished_result(models: list[str]) -> None:
    command = [sys.executable, "-c", CHILD, *models, "--max-new-tokens", "40"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=assets_folder().parent,
    ) as child:
        wait_for(lambda: has_results(3))
        child.send_signal(signal.SIGKILL)
    (evaluation,) = list_evaluations()
    assert evaluation.state == "stopped" and "process ended" in str(evaluation.error)
    assert 3 <= len(read_results(evaluation)) < evaluation.total
    assert evaluation.models[1].revision is not None


def test_a_failed_evaluation_is_an_error_to_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--model", str(tmp_path), "--model", str(tmp_path)]
    assert run_eval(parse(*folders, "--category", "python")) == 1
    assert "is missing" in capsys.readouterr().out


def test_it_refuses_before_it_starts(models: list[str]) -> None:
    with pytest.raises(OptionError, match="Give --model twice"):
        run_eval(parse(*models[:2]))
    with pytest.raises(OptionError, match=r"An export ends in \.json or \.csv"):
        run_eval(parse("--export", "table.xlsx"))
    with pytest.raises(OptionError, match="Did you mean 'science'"):
        run_eval(parse("--category", "scienc"))
    assert list_evaluations() == []
