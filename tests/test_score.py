"""`python -m stentor score`: the table for people and the JSON."""

import json
import math
from pathlib import Path

import pytest

from stentor.__main__ import FAILED, main

TEXT = "The river runs\n\x1b[31m"


def test_the_table_has_a_line_for_every_token(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", TEXT, "--model", str(tiny_model_folder), "--alternatives", "2"]) == 0
    printed = capsys.readouterr()
    title, head, first, *tokens, total, blank = printed.out.splitlines()
    assert str(tiny_model_folder) in title and "sha256:" in title
    assert head.split() == ["token", "log-prob", "rank", "likeliest"]
    assert "not predicted" in first and first.split()[1:3] == ["-", "-"]
    assert f"[{len(tokens):,} tokens predicted" in total and " bits per byte]" in total
    assert "\x1b" not in printed.out, "a text cannot steer the terminal"
    assert blank == ""
    assert "int8" in printed.err or "bf16" in printed.err, "what was loaded, and its memory"


def test_json_holds_every_token_and_the_totals(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_model_folder)]
    flags = ["--alternatives", "3", "--precision", "fp32", "--threads", "1", "--json"]
    assert main(["score", TEXT, *model, *model, *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    first, second = report["results"]
    for token in (*first["tokens"], *second["tokens"]):
        assert token.pop("seconds") >= 0.0
    assert first == second and report["text"] == TEXT
    assert (first["precision"], first["num_threads"]) == ("fp32", 1)
    assert first["num_predicted"] == len(first["tokens"])
    for token in first["tokens"]:
        likelihoods = [item["log_probability"] for item in token["alternatives"]]
        assert len(likelihoods) == 3 and likelihoods == sorted(likelihoods, reverse=True)
        is_top = token["rank"] == 1
        assert is_top == (token["log_probability"] == pytest.approx(likelihoods[0], abs=1e-9))
    nats = -math.fsum(token["log_probability"] for token in first["tokens"])
    assert first["bits"] == pytest.approx(nats / math.log(2))
    assert first["bits_per_byte"] == pytest.approx(first["bits"] / first["num_bytes"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["score", ""], "0 tokens"),
        (["score", "some text", "--alternatives", "11"], "Alternatives must be at most 10"),
        (["score", "some text", "--threads", "0"], "Threads must be at least 1"),
    ],
)
def test_mistakes_are_told(
    tiny_model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    assert main([*arguments, "--model", str(tiny_model_folder)]) == FAILED
    assert reason in capsys.readouterr().err.splitlines()[-1]
