"""The benchmark measures what it says: real runs, a table for people, JSON on the last line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stentor.__main__ import main
from stentor.bench.command import PEERS_PYTHON
from stentor.bench.peers import PEERS, why_skipped
from stentor.bench.report import BEST_PEER

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--users", "1", "3", "--tokens", "5", "--context", "16", "--threads", "1"]


def last_line(output: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    return report


def run_module(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "stentor.bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def printed(tiny_model_folder: Path) -> str:
    """Return what a run of its own prints that measures a model and all peers that are there."""
    finished = run_module("--model", str(tiny_model_folder), *SHORT, "--compare")
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout


def test_the_table_and_the_json_line_tell_the_same(printed: str) -> None:
    report = last_line(printed)
    rows = [line for line in printed.splitlines() if " sampled " in line or " greedy " in line]
    assert len(rows) == len(report["measurements"])
    for row, measured in zip(rows, report["measurements"], strict=True):
        users, tokens, speed, each, first, p95, slowest = row.split()[-7:]
        assert (int(users), int(tokens)) == (measured["num_users"], measured["num_tokens"])
        assert speed == f"{measured['tokens_per_second']:.1f}"
        assert each == f"{measured['tokens_per_second_each']:.1f}"
        assert first == f"{measured['first_seconds']:.3f}"
        assert p95 == f"{measured['first_seconds_p95']:.3f}"
        assert slowest == f"{measured['slowest_over_median']:.2f}"


def test_every_user_gets_every_token(printed: str) -> None:
    """The tiny model ends texts at random; an end must not make a run shorter."""
    for measured in last_line(printed)["measurements"]:
        assert measured["num_tokens"] == measured["num_users"] * measured["num_new_tokens"]
        assert measured["num_new_tokens"] == 5
        assert measured["tokens_per_second"] > 0.0 < measured["first_seconds"]


def test_it_measures_users_and_depth(printed: str) -> None:
    report = last_line(printed)
    ours = [line for line in report["measurements"] if line["engine"] == "stentor"]
    assert [(line["kind"], line["num_users"], line["drawing"]) for line in ours] == [
        ("users", 1, "sampled"),
        ("users", 3, "sampled"),
        ("users", 1, "greedy"),
        ("users", 3, "greedy"),
        ("context", 1, "sampled"),
    ]
    assert ours[-1]["num_prompt_tokens"] + ours[-1]["num_new_tokens"] == 16
    assert [line["num_parameters"] for line in report["models"]] == [30_880]
    assert {line["precision"] for line in ours} == {report["plan"]["precision"]}


def test_both_models_are_asked_at_once_and_a_deeper_context_is_left_out(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [str(tiny_model_folder), str(shutil.copytree(tiny_model_folder, tmp_path / "other"))]
    named = [flag for model in [*models, models[0]] for flag in ("--model", model)]
    flags = ["--users", "2", "--tokens", "3", "--context", "1000", "--precision", "fp32"]
    assert main(["bench", *named, *flags]) == 0
    report = last_line(capsys.readouterr().out)
    found = [(line["model"], line["kind"], line["num_users"]) for line in report["measurements"]]
    assert found == [
        (models[0], "users", 2),
        (models[1], "users", 2),
        (models[0], "both models", 2),
        (models[1], "both models", 2),
        (" + ".join(models), "both models", 4),
    ]
    assert report["measurements"][-1]["num_tokens"] == 12
    assert all("less than 1000 tokens" in note for note in report["notes"])
    assert {line["precision"] for line in report["measurements"]} == {"fp32"}


def test_peers_are_measured_or_said_to_be_missing(printed: str) -> None:
    """transformers is always there; the others where a bench environment has them."""
    report = last_line(printed)
    measured = {line["engine"] for line in report["measurements"]}
    assert "transformers" in measured and "transformers" in report["versions"]
    for peer in PEERS:
        notes = [note for note in report["notes"] if note.startswith(peer.title)]
        assert peer.title in measured or any("pip install" in note for note in notes)
        assert all(note in printed.splitlines() for note in notes)
    by_peer = {
        (line["model"], line["num_users"], line["peer"]): line["ratio"] for line in report["ratios"]
    }
    speeds = {
        (line["model"], line["num_users"], line["engine"]): line["tokens_per_second"]
        for line in report["measurements"]
        if line["kind"] == "users" and line["drawing"] == "sampled"
    }
    for (model, users, peer), ratio in by_peer.items():
        if peer == "transformers fp32":
            of_ours = speeds[model, users, "stentor"] / speeds[model, users, "transformers"]
            assert ratio == pytest.approx(of_ours, abs=1e-3)
            assert by_peer[model, users, BEST_PEER] <= ratio


def test_it_says_what_the_machine_could_do(printed: str) -> None:
    report = last_line(printed)
    assert report["limits"]["read_bytes"] > 1e8
    assert min(report["limits"]["multiply_adds"].values()) > 1e8
    assert {(share["num_users"], share["limit"]) for share in report["shares"]} == {
        (1, "memory reads"),
        (3, "multiply-adds"),
    }
    for share in report["shares"]:
        assert share["fraction"] == pytest.approx(share["reached"] / share["possible"], abs=1e-4)
    assert report["machine"]["cores"] >= 1 and report["versions"]["torch"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--users", "0"], "Users must be from 1 to 256; got [0]."),
        (["--users", "257"], "Users must be from 1 to 256; got [257]."),
        (["--tokens", "0"], "Tokens must be at least 1; got 0."),
        (["--prompt-tokens", "600"], "Prompt tokens must be at most 512; got 600."),
        (["--threads", "0"], "Threads must be at least 1; got 0."),
        (["--context", "3"], "Contexts must be at least 4; got [3]."),
        (["--tokens", "512"], "has a context of 512 tokens; 524 were asked for."),
        (["--peers-python", "no-such-python"], "--peers-python no-such-python is no program."),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main(["bench", "--model", str(tiny_model_folder), *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("title", ["llama.cpp", "OpenVINO GenAI"])
def test_a_peer_of_the_bench_environment_runs(printed: str, title: str) -> None:
    """Real children with a real engine, where STENTOR_PEERS_PYTHON names a Python that has it."""
    python = os.environ.get(PEERS_PYTHON, sys.executable)
    peer = next(peer for peer in PEERS if peer.title == title)
    skipped = why_skipped(peer, python)
    if skipped:
        pytest.skip(skipped)
    report = last_line(printed)
    lines = [line for line in report["measurements"] if line["engine"] == title]
    assert {(line["num_users"], line["drawing"]) for line in lines} == {
        (1, "sampled"),
        (1, "greedy"),
        (3, "sampled"),
        (3, "greedy"),
    }
    assert all(line["num_tokens"] == 5 * line["num_users"] for line in lines)
    assert report["versions"][title]
