"""A start is measured in processes of its own: real models, real kernels, seconds that add up."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest

import stentor.bench.command
from stentor.__main__ import main
from stentor.bench.measure import Plan
from stentor.bench.start import (
    COMPILED,
    KEPT,
    environment_of,
    make_start,
    measure_starts,
    start_heading,
    start_line,
    start_once,
)
from stentor.bench.start_child import StartAnswer
from stentor.bench.subjects import Subject, open_subjects
from stentor.engine.sampling import SamplingSettings
from stentor.errors import ModelError
from stentor.home import kernels_folder

PLAN = Plan(
    users=(1,),
    contexts=(),
    num_prompt_tokens=7,
    settings=SamplingSettings(),
    precision="fp32",
    num_threads=1,
    is_compared=False,
    peers_python="python",
)


@pytest.fixture
def subjects(tiny_model_folder: Path, tmp_path: Path) -> list[Subject]:
    return open_subjects([str(tiny_model_folder), "demo-base"], False, tmp_path)


def test_the_command_prints_a_line_for_people_and_one_of_json(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of both kinds only the one that does not compile for many seconds."""

    only_kept = functools.partial(measure_starts, kinds=(KEPT,))
    monkeypatch.setattr(stentor.bench.command, "measure_starts", only_kept)
    flags = ["--model", str(tiny_model_folder), "--model", "demo-base", "--prompt-tokens", "7"]
    assert main(["bench", "--only", "start", "--starts", "1", *flags, "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    (start,) = report["starts"]
    assert start["models"] == [tiny_model_folder.name, "demo-base"]
    assert (start["num_runs"], start["num_prompt_tokens"], start["kernels"]) == (1, 7, KEPT)
    parts = [start["python_seconds"], *start["load_seconds"], max(start["first_seconds"])]
    assert len(parts) == 4 and min(parts) >= 0.0
    assert sum(parts) <= start["seconds"] + 0.005  # each is rounded
    assert start["all_seconds"] == [start["seconds"]]
    assert report["machine"]["cores"] >= 1 and report["versions"]["torch"]
    assert lines[-2].split()[-1] == f"{start['seconds']:.3f}"
    assert "load demo-base" in lines[-3]


def test_the_median_start_is_shown_whole(subjects: list[Subject]) -> None:
    """Medians of the parts, each of another start, would add up to no start at all."""
    answers = [
        StartAnswer(1.0, (0.2, 0.5), (0.1, 0.1), 1.8),
        StartAnswer(9.0, (0.1, 0.1), (0.1, 0.1), 9.3),
        StartAnswer(1.5, (0.3, 0.4), (0.0126, 0.2), 2.4),
    ]
    start = make_start(answers, subjects, PLAN, KEPT)
    assert (start.python_seconds, start.load_seconds, start.seconds) == (1.5, (0.3, 0.4), 2.4)
    assert start.first_seconds == (0.013, 0.2)
    assert start.all_seconds == (1.8, 9.3, 2.4) and start.num_runs == 3
    assert make_start(answers[:2], subjects, PLAN, KEPT).seconds == 1.8
    line = start_line(start)
    assert line.split() == ["kept", "1.500", "0.300", "0.400", "0.013", "0.200", "2.400"]
    heading = start_heading(start.models)
    assert len(line) == len(heading)
    assert line.index("0.400") + 5 == heading.index("load demo-base") + len("load demo-base")


def test_a_start_that_compiles_finds_nothing_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = kernels_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", environment_of(COMPILED, str(tmp_path))["XDG_CACHE_HOME"])
    assert kernels_folder().is_relative_to(tmp_path) and kernels_folder() != kept
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert "XDG_CACHE_HOME" not in environment_of(KEPT, str(tmp_path))


def test_a_start_that_fails_says_why(subjects: list[Subject], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    checkpoint = replace(subjects[0].checkpoint, folder=tmp_path / "gone")
    with pytest.raises(ModelError, match=r"A start failed with exit code 2: .*gone"):
        start_once([replace(subjects[0], checkpoint=checkpoint)], PLAN, KEPT, tmp_path)


@pytest.mark.parametrize("starts", ["0", "100"])
def test_a_wrong_number_of_starts_is_refused(
    starts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--only", "start", "--starts", starts]) == 2
    assert "Starts must be" in capsys.readouterr().err
