"""What a precision costs: the figures on hand-made predictions, and the command on a real model."""

import json
import math
from pathlib import Path

import pytest

from stentor.__main__ import FAILED, main
from stentor.quality import BOUND_MISSED, Predictions, compare

EVEN = Predictions((math.log(0.5),) * 100, (7,) * 100)


def changed(factor: float, num_other: int) -> Predictions:
    """Return EVEN with every log-probability times `factor` and some other likeliest tokens."""
    likelihoods = tuple(value * factor for value in EVEN.log_probabilities)
    return Predictions(likelihoods, (8,) * num_other + (7,) * (100 - num_other))


def test_the_figures_of_a_comparison() -> None:
    comparison = compare(EVEN, changed(1.002, 1), num_bytes=400)
    assert (comparison.num_tokens, comparison.num_bytes) == (100, 400)
    assert comparison.reference_bits_per_byte == pytest.approx(0.25)
    assert comparison.bits_per_byte == pytest.approx(0.2505)
    assert comparison.relative_difference == pytest.approx(0.002)
    assert comparison.agreement == 0.99
    assert comparison.mean_absolute_difference == pytest.approx(0.002 * math.log(2))
    assert comparison.max_absolute_difference == pytest.approx(0.002 * math.log(2))


@pytest.mark.parametrize(
    ("factor", "num_other", "is_within"),
    [
        (1.0, 0, True),
        (1.004, 2, True),
        (0.996, 2, True),
        (1.006, 0, False),
        (0.994, 0, False),  # better by chance is another model, too
        (1.0, 3, False),
        (math.nan, 0, False),
    ],
)
def test_both_bounds_decide(factor: float, num_other: int, is_within: bool) -> None:
    assert compare(EVEN, changed(factor, num_other), 400).is_within_bounds is is_within


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    texts = ["The river runs past the mill. " * 3, "z", "Naïve café owners 😀 " * 60]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def test_the_command_measures_and_ends_with_json(
    tiny_model_folder: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model", str(tiny_model_folder), "--max-tokens", "300", "--threads", "1"]
    arguments = ["quality", "--text", str(text_file), *flags, "--precision", "int8"]
    code = main(arguments)
    head, line, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    (result,) = report["results"]
    assert head.split()[:3] == ["model", "int8", "fp32"] and str(tiny_model_folder) in line
    assert (result["precision"], result["num_tokens"]) == ("int8", 300)
    assert result["revision"].startswith("sha256:") and report["text_hash"].startswith("sha256:")
    assert abs(result["relative_difference"]) < 0.02 and result["agreement"] > 0.9
    assert 0.0 < result["mean_absolute_difference"] <= result["max_absolute_difference"]
    assert code == (0 if result["is_within_bounds"] else BOUND_MISSED)
    assert main([*arguments, "--json"]) == code
    again = json.loads(capsys.readouterr().out)
    assert again["results"] == report["results"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--precision", "fp32"], "Choose another precision than fp32"),
        (["--max-tokens", "0"], "Max tokens must be at least 1"),
    ],
)
def test_mistakes_are_told(
    tiny_model_folder: Path,
    text_file: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    reason: str,
) -> None:
    model = ["--model", str(tiny_model_folder)]
    assert main(["quality", "--text", str(text_file), *model, *flags]) == FAILED
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_file_without_text_is_refused(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "one.txt"
    path.write_text("z")
    assert main(["quality", "--text", str(path), "--model", str(tiny_model_folder)]) == FAILED
    assert "holds no text of two tokens" in capsys.readouterr().err.splitlines()[-1]
