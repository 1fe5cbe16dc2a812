"""Scores on hand-made continuations."""

from pathlib import Path

import pytest

from stentor.prompts import Prompt, categories
from stentor.scorers import (
    SCORERS,
    Scorer,
    distinct_share,
    repeated_ending,
    score_expected,
    score_fluency,
    score_python,
)


def prompt(text: str, *expected: str) -> Prompt:
    return Prompt("test-01", "test", text, "written", expected)


def test_every_scorer_named_in_a_file_is_in_the_table_and_the_reverse() -> None:
    assert {item.scorer for item in categories().values()} == set(SCORERS)


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_every_scorer_takes_anything_and_stays_between_0_and_1(scorer: Scorer) -> None:
    for text in ("", " ", "\0", "((((" * 500, "é😀" * 50, "a b " * 200, "\n" * 30, "`" * 400):
        for answer in ((), ("8",)):
            value = scorer(text, prompt("The root is", *answer)).value
            assert value is None or 0.0 <= value <= 1.0


@pytest.mark.parametrize(
    ("continuation", "answers", "value"),
    [
        (" Paris, a city", ("paris",), 1.0),
        (" PARIS", ("Paris",), 1.0),
        (" Parisian cafés", ("Paris",), 0.0),
        (" a city that is far away and is called Paris", ("Paris",), 0.0),  # after character 40
        (" " + "x" * 33 + " Paris", ("Paris",), 1.0),  # ends on character 40
        (" " + "x" * 34 + " Paris", ("Paris",), 0.0),  # ends on character 41
        (" 8.", ("8",), 1.0),
        (" 8, of course", ("8", "eight"), 1.0),
        (" eight.", ("8", "eight"), 1.0),
        (" 64", ("4",), 0.0),
        (" 8.5", ("8",), 0.0),
        (" 2,800", ("2",), 0.0),
        (" 1/2", ("2",), 0.0),
        (" -8", ("8",), 0.0),
        (" x^2", ("2",), 0.0),
        (" twenty-eight", ("eight",), 0.0),
        (" eight-sided", ("eight",), 0.0),
        (" 2x.", ("2x",), 1.0),
        (" 2x^2", ("2x",), 0.0),
        (" 2*x", ("2*x",), 1.0),
        (" 2x²", ("2x",), 0.0),
        ("8", ("8",), 0.0),  # glued to the prompt: `is8`
    ],
)
def test_expected_wants_a_whole_word_early(
    continuation: str, answers: tuple[str, ...], value: float
) -> None:
    assert score_expected(continuation, prompt("The answer is", *answers)).value == value


def test_a_sequence_may_be_continued_without_a_space() -> None:
    assert score_expected("12, 14", prompt("2, 4, 6, 8, 10,", "12")).value == 1.0


def test_a_word_cut_off_by_the_limit_is_not_taken_for_a_whole_one() -> None:
    """Cutting the text at 40 characters first would turn `80` into `8`."""
    assert score_expected(" " * 39 + "80", prompt("is", "8")).value == 0.0


def test_without_an_expected_answer_there_is_no_score() -> None:
    assert score_expected(" Paris", prompt("The capital is")).value is None


@pytest.mark.parametrize(
    ("text", "continuation", "value"),
    [
        ("squares = [n * n for n in", " range(10)]", 1.0),
        ("squares = [n * n for n in", " range(10)]\nprint(squ", 1.0),  # last line broken off
        ("squares = [n * n for n in", " range(10)]\nprint('squ", 1.0),
        ("squares = [n * n for n in", " range(10)]\n\ndef total(", 1.0),
        ("squares = [n * n for n in", " range(10)]\n\ndef total(a):\n    ", 1.0),
        ("squares = [n * n for n in", " range(10)]\nx = [\n    1,\n    2,\n    3", 1.0),
        ("squares = [n * n for n in", " range(10)]\nis a list of\nthe squares", 0.0),
        ("squares = [n * n for n in", " the list", 0.0),
        ("def f(n):\n    if n:\n        return 1\n    else:", "\n        return 2\n", 1.0),
        ("def f(n):\n    if n:\n        return 1\n    else:", "\n    return 2\n", 0.0),
        ("def f(n):\n    return n", "", 0.0),
        ("def f(n):\n    return n", "\n\n", 0.0),
        ("x =", " 1\0", 0.0),
        ("x =", " " + "9" * 5000, 0.0),
    ],
)
def test_python_source_must_parse_up_to_its_last_complete_line(
    text: str, continuation: str, value: float
) -> None:
    assert score_python(continuation, prompt(text)).value == value


def test_python_never_runs_what_it_reads(tmp_path: Path) -> None:
    """Model output is untrusted: parsing must have no effect beyond the score."""
    continuation = f" __import__('pathlib').Path({str(tmp_path)!r}, 'ran').touch()"
    assert score_python(continuation, prompt("x =")).value == 1.0
    assert not list(tmp_path.iterdir())


def test_fluency_is_the_share_of_distinct_trigrams() -> None:
    fresh = "the river runs past the old mill and the miller counts his sacks of grain"
    assert score_fluency(fresh, prompt("x")).value == 1.0
    looping = score_fluency(" and so on" * 10, prompt("x"))
    assert looping.value == pytest.approx(3 / 28)
    assert "loop: 'and so on' 10 times" in looping.note
    assert "neither sense nor truth" in looping.note


def test_a_short_text_has_no_fluency() -> None:
    assert score_fluency(" only four words here", prompt("x")).value is None


def test_helpers_on_tiny_inputs() -> None:
    assert distinct_share(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3)
    assert distinct_share(["a"], 3) == 1.0
    assert repeated_ending(["x", "a", "a", "a"]) == (("a",), 3)
    assert repeated_ending(["a", "b", "a", "b"]) is None
    assert repeated_ending([]) is None
