"""The verb `bench` of the trainer: one real run on a tiny model, and what it refuses."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stentor.errors import INTERRUPTED, OptionError
from stentor.models import MODELS
from training.bench import command, measure, speed
from training.bench.plan import OURS, TRAINER, Line, Plan
from training.bench.report import speed_heading

LINES = [Line(OURS, "fp32", is_checkpointed=False), Line(TRAINER, "fp32", is_checkpointed=True)]
QUICK = ["--repeats", "1", "--steps", "1", "--warmup-steps", "1", "--batch-size", "1"]
QUICK += ["--threads", "1", "--megabytes", "0.5", "--gigabytes", "0.005"]


def parse(flags: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_flags(parser)
    return parser.parse_args(flags)


@pytest.fixture
def small_bench(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the embedded big model be a tiny one, and only two loops be measured."""
    tiny = replace(MODELS["demo-big"], folder=tiny_model_folder)
    monkeypatch.setitem(MODELS, "demo-big", tiny)
    monkeypatch.setattr(measure, "choose_lines", lambda device, flags: (LINES, []))


@pytest.mark.usefixtures("small_bench")
def test_loops_are_measured_in_processes_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Real children; the figures are checked against each other, not against a clock."""
    assert command.run(parse([*QUICK, "--only", "speed,memory"])) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    report = json.loads(lines[-1])
    ours, trainer = report["speed"]
    assert (ours["loop"], trainer["loop"]) == ("stentor", "transformers.Trainer")
    assert ours["first_loss"] == pytest.approx(trainer["first_loss"], rel=1e-4)
    (ratio,) = report["ratios"]
    of_ours = ours["tokens_per_second"] / trainer["tokens_per_second"]
    assert ratio["ratio"] == pytest.approx(of_ours, abs=0.01) and ratio["has_same_loss"]
    for line in report["speed"]:
        reached = line["tokens_per_second"] * line["flops_per_token"]
        share = reached / report["ceilings"]["fp32"]
        assert line["flops_share"] == pytest.approx(share, abs=1e-4)
        assert line["peak_bytes"] > 10_000_000
    (memory,) = report["memory"]
    assert memory["ratio"] == pytest.approx(
        memory["predicted_bytes"] / memory["measured_bytes"], abs=1e-3
    )
    assert speed_heading() in lines and report["notes"] == []
    assert report["machine"]["cores"] >= 1 and "T" in report["date"]
    assert {"torch", "transformers", "accelerate", "datasets"} <= set(report["versions"])
    assert "... demo-big, transformers.Trainer, checkpointing, fp32: 1 of 1" in printed.err


@pytest.mark.usefixtures("small_bench")
def test_text_is_measured_both_ways_and_for_flatness(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run(parse([*QUICK, "--only", "data,flat"])) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    ways = [(line["way"], line["num_processes"]) for line in report["data"]]
    assert ways == [("stentor", 1), ("datasets.map", 1)]
    ours, theirs = (line["megabytes_per_second"] for line in report["data"])
    assert report["data_ratio"] == pytest.approx(ours / theirs, abs=0.01)
    assert report["flat"]["large_text_bytes"] > 9 * report["flat"]["small_text_bytes"]
    assert report["speed"] == [] and report["memory"] == []


@pytest.mark.usefixtures("small_bench")
def test_a_peer_that_breaks_is_a_line_and_no_figure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for loop in (OURS, TRAINER):
        monkeypatch.setitem(speed.MODULES, loop, "no_such_module")
    assert command.run(parse(QUICK)) == 1
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert (report["speed"], report["ratios"]) == ([], [])
    expected = "demo-big, transformers.Trainer, checkpointing, fp32: failed with exit code 1: "
    assert any(note.startswith(expected) for note in report["notes"])
    assert all("No module named 'no_such_module'" in note for note in report["notes"])
    assert all(note in lines for note in report["notes"])


def test_ctrl_c_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(plan: Plan) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "run_plan", interrupted)
    assert command.run(parse([])) == INTERRUPTED
    assert "Interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "sped"], "No part of the bench is called 'sped'. Did you mean 'speed'"),
        (["--only", ","], "--only needs a part; there is: speed, memory, data, flat."),
        (["--shapes", "stentor"], "No model to train is called 'stentor'"),
        (["--text", "/no/such/file.jsonl"], "/no/such/file.jsonl does not exist"),
        (["--steps", "0"], "Steps must be at least 1; got 0."),
        (
            ["--batch-size", "6", "--micro-batch-size", "4"],
            "Batch size 6 must be a multiple of micro batch size 4",
        ),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_measured(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OptionError) as caught:
        command.run(parse(flags))
    assert message in str(caught.value)
    assert capsys.readouterr().out == ""


def test_shapes_given_alone_are_the_two_real_ones() -> None:
    assert command.read_plan(parse([])).shapes == ()
    assert command.read_plan(parse(["--shapes"])).shapes == ("stentor-30m", "stentor-big")
    assert command.read_plan(parse(["--shapes", "demo-big"])).shapes == ("demo-big",)
    assert command.read_plan(parse([])).parts == ("speed",)
    assert command.read_plan(parse(["--only", "flat, data,flat"])).parts == ("flat", "data")


def test_the_trainer_runs_as_the_card_says_and_as_fast_as_it_goes() -> None:
    lines, notes = measure.choose_lines("cpu", frozenset({"avx2"}))
    assert {line.is_checkpointed for line in lines if line.loop == TRAINER} == {True, False}
    assert {line.precision for line in lines} == {"fp32"} and "bf16 is left out" in notes[0]
    lines, notes = measure.choose_lines("cpu", frozenset({"amx_bf16"}))
    assert {line.loop for line in lines if line.precision == "bf16"} == {OURS, TRAINER}
    assert notes == []
    lines, notes = measure.choose_lines("cuda", frozenset())
    assert {line.precision for line in lines} == {"bf16"} and len(lines) == 6
    assert {line.loop for line in lines if line.is_compiled} == {OURS, TRAINER}
