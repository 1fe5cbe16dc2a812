"""The benchmark measures what it says: real runs, a table for people, JSON on the last line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stentor.__main__ import main

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_and_the_json_line_tell_the_same(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny_model_folder)
    arguments = ["bench", "--model", model, "--users", "1", "3", "--tokens", "5", "--threads", "1"]
    assert main([*arguments, "--compare"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    measured = report["measurements"]
    assert [(line["engine"], line["num_users"]) for line in measured] == [
        ("stentor", 1),
        ("stentor", 3),
        ("transformers", 1),
    ]
    assert [line["num_tokens"] for line in measured] == [5, 15, 5]
    assert all(line["load_seconds"] > 0 and line["tokens_per_second"] > 0 for line in measured)
    assert all(line["num_parameters"] == 30_880 for line in measured)
    assert len(table) == 1 + len(measured)
    for line, figures in zip(table[1:], measured, strict=True):
        assert line.split()[-1] == f"{figures['tokens_per_second']:.1f}"
    assert report["machine"]["cores"] >= 1 and "transformers" in report["versions"]
    assert report["settings"]["max_new_tokens"] == 5


def test_it_runs_as_a_module_of_its_own(tiny_model_folder: Path) -> None:
    command = [sys.executable, "-m", "stentor.bench", "--model", str(tiny_model_folder)]
    finished = subprocess.run(
        [*command, "--users", "2", "--tokens", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(finished.stdout.splitlines()[-1])
    assert [line["num_users"] for line in report["measurements"]] == [2]
    assert "Traceback" not in finished.stderr and "Warning" not in finished.stderr
