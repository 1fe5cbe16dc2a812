"""Options declared once: their checks, flags and JSON."""

import argparse
import json
import math
from dataclasses import dataclass

import pytest

from stentor.errors import OptionError
from stentor.knobs import (
    add_arguments,
    check,
    choose,
    from_arguments,
    from_json,
    knob,
    knobs,
    label,
    to_json,
)


@dataclass(frozen=True)
class Place:
    town: str
    people: int = knob(100, low=0, high=1000, help="Inhabitants")


@dataclass(frozen=True)
class Options:
    rate: float = knob(0.5, low=0.0, high=2.0, step=0.1, help="Rate, 50% is half")
    count: int = knob(80, low=1, high=512, step=1, help="Count")
    style: str = knob("plain", choices=("plain", "bold"), help="Style")
    is_loud: bool = knob(False, help="Loud, 100%")
    limit: int | None = knob(None, low=1, high=9, step=1, help="Limit")
    heat: float | None = knob(None, low=0.0, high=2.0, step=0.1, help="Heat")
    title: str = "untitled"
    names: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


def problem_with(**values: object) -> str:
    with pytest.raises(OptionError) as caught:
        from_json(Options, values)
    return str(caught.value)


def test_defaults_pass_and_come_back_unchanged() -> None:
    options = Options()
    assert check(options) is options
    assert list(knobs(Options)) == ["rate", "count", "style", "is_loud", "limit", "heat"]
    assert label("max_new_tokens") == "Max new tokens"


def test_every_problem_is_reported_at_once() -> None:
    message = problem_with(rate=9, count=0, style="loud", is_loud="yes", title=5)
    for part in (
        "Rate must be at most 2; got 9",
        "Count must be at least 1; got 0",
        "Style must be one of plain, bold; got 'loud'",
        "Is loud must be true or false; got 'yes'",
        "Title must be text; got 5",
    ):
        assert part in message


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "0.5", True, None, [0.5], {}, 10**400]
)
def test_what_is_no_number_in_range_is_refused(value: object) -> None:
    """10**400 once ended in an OverflowError instead of a message."""
    assert "Rate must be" in problem_with(rate=value)
    assert "Count must be" in problem_with(count=value)


def test_a_number_is_no_switch_and_a_switch_no_number() -> None:
    assert "true or false" in problem_with(is_loud=1)
    assert "a whole number" in problem_with(count=False)


def test_whole_numbers_survive_a_browser() -> None:
    """A slider sends 80.0 for 80."""
    options = from_json(Options, {"count": 80.0, "rate": 1, "limit": 3.0})
    assert (options.count, type(options.count)) == (80, int)
    assert (options.rate, type(options.rate)) == (1.0, float)
    assert (options.limit, type(options.limit)) == (3, int)
    assert "Count must be a whole number; got 80.5" in problem_with(count=80.5)


def test_an_optional_option_keeps_its_type() -> None:
    """The type was once guessed from the default, so None took 8.5 for a whole number."""
    assert from_json(Options, {"limit": None, "heat": None}) == Options()
    assert from_json(Options, {"heat": 0.7}).heat == 0.7
    assert "Limit must be a whole number or nothing; got 8.5" in problem_with(limit=8.5)
    assert "Limit must be at most 9; got 10" in problem_with(limit=10)


def test_unknown_names_are_answered_with_what_was_meant() -> None:
    message = problem_with(rat=1.0)
    assert "No Options option is called 'rat'. Did you mean 'rate'?" in message
    assert "Known: rate, count" in message
    with pytest.raises(OptionError, match=r"No dish is called 'soop'. Did you mean 'soup'\?"):
        choose({"soup": 1, "bread": 2}, "soop", "dish")
    with pytest.raises(OptionError, match="A dish is named by text; got 5"):
        choose({"soup": 1}, 5, "dish")  # type: ignore[arg-type]
    with pytest.raises(OptionError) as caught:
        choose({"soup": 1}, "x" * 10_000, "dish")
    assert len(str(caught.value)) < 200


def test_json_round_trip_with_tuples_and_nested_objects() -> None:
    options = Options(rate=1.5, names=("a", "b"), places=(Place("Fenwick", 7),), limit=4)
    text = json.dumps(to_json(options))
    assert from_json(Options, json.loads(text)) == options


def test_plain_fields_are_checked_by_their_type() -> None:
    assert "Names must be a list of text; got 'abc'" in problem_with(names="abc")
    assert "Names must be a list of text; got ('a', 5)" in problem_with(names=["a", 5])
    assert "Places must be a list of Place" in problem_with(places=["here"])
    with pytest.raises(OptionError, match="Place lacks town"):
        from_json(Options, {"places": [{"people": 5}]})
    with pytest.raises(OptionError, match="Options must be an object"):
        from_json(Options, [1, 2])  # type: ignore[arg-type]


def parse(*flags: str) -> Options:
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options)
    return from_arguments(Options, parser.parse_args(flags))


def test_flags_round_trip() -> None:
    assert parse() == Options()
    given = parse("--rate", "1", "--count=5", "--style", "bold", "--is-loud", "--heat", "0.7")
    assert given == Options(rate=1.0, count=5, style="bold", is_loud=True, heat=0.7)
    assert parse("--no-is-loud") == Options()


def test_flags_are_checked_like_everything_else() -> None:
    with pytest.raises(OptionError, match="Rate must be a number; got nan"):
        parse("--rate", "nan")
    with pytest.raises(OptionError, match="Count must be at most 512; got 513"):
        parse("--count", "513")
    with pytest.raises(SystemExit):
        parse("--count", "eighty")


def test_help_shows_per_cent_signs() -> None:
    """argparse takes `%` for its own marks; the help of a switch once broke on it."""
    parser = argparse.ArgumentParser()
    add_arguments(parser, Options)
    text = " ".join(parser.format_help().split())
    assert "50% is half (default 0.5)" in text
    assert "Loud, 100% (default False)" in text
