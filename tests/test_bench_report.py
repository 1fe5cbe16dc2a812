"""Figures of hand-made runs, computed by hand."""

import dataclasses

import pytest

from stentor.bench.report import (
    BEST_PEER,
    BOTH,
    CONTEXT,
    HEADINGS,
    OURS,
    TOGETHER,
    USERS,
    Measurement,
    Ratio,
    heading,
    line_of,
    make_measurement,
    make_share,
    percentile,
    ratio_lines,
    ratios,
    share_line,
)
from stentor.peers.protocol import GREEDY, SAMPLED, Run


def measured(runs: list[Run], kind: str = USERS, engine: str = OURS) -> Measurement:
    return make_measurement(
        runs,
        model="model",
        weights="random",
        engine=engine,
        precision="int8",
        drawing=SAMPLED,
        kind=kind,
        num_threads=2,
        num_prompt_tokens=12,
    )


def test_speeds_and_times_of_two_users() -> None:
    """Ten tokens each: 20 in 4 s; 9 after the first in 2 s and in 3 s."""
    figures = measured([Run((0.5, 1.0), (2.5, 4.0), 20)])
    assert figures.tokens_per_second == 5.0
    assert figures.tokens_per_second_each == (9 / 2 + 9 / 3) / 2
    assert (figures.first_seconds, figures.first_seconds_p95) == (0.75, 1.0)
    assert figures.slowest_over_median == round(4.0 / 3.25, 3)
    assert (figures.num_users, figures.num_new_tokens, figures.num_tokens) == (2, 10, 20)


def test_depth_in_a_context_leaves_the_prompt_out() -> None:
    figures = measured([Run((3.0,), (4.0,), 11)], CONTEXT)
    assert figures.tokens_per_second == figures.tokens_per_second_each == 10.0


def test_a_lone_token_has_a_speed() -> None:
    assert measured([Run((0.5,), (0.5,), 1)]).tokens_per_second_each == 2.0


def test_the_median_run_is_shown() -> None:
    runs = [Run((0.1,), (seconds,), 10) for seconds in (5.0, 1.0, 2.0)]
    assert measured(runs).tokens_per_second == 5.0
    assert measured(runs[:2]).tokens_per_second == 2.0  # of two, the slower
    assert measured(runs).num_runs == 3


@pytest.mark.parametrize(
    ("count", "expected"), [(1, 1.0), (2, 2.0), (20, 19.0), (21, 20.0), (60, 57.0), (100, 95.0)]
)
def test_the_95th_percentile_is_a_value_that_occurred(count: int, expected: float) -> None:
    assert percentile([float(number) for number in range(count, 0, -1)], 0.95) == expected


def test_ratios_compare_like_with_like() -> None:
    ours = measured([Run((0.1,), (1.0,), 10)])
    slow = dataclasses.replace(ours, engine="slow", precision="fp32", tokens_per_second=4.0)
    fast = dataclasses.replace(ours, engine="fast", tokens_per_second=20.0)
    others = [
        dataclasses.replace(fast, drawing=GREEDY),
        dataclasses.replace(fast, num_users=30),
        dataclasses.replace(fast, model="another"),
        dataclasses.replace(ours, kind=CONTEXT, tokens_per_second=1.0),
    ]
    assert ratios([ours, slow, fast, *others]) == [
        Ratio("model", "slow fp32", SAMPLED, 1, 2.5),
        Ratio("model", "fast int8", SAMPLED, 1, 0.5),
        Ratio("model", BEST_PEER, SAMPLED, 1, 0.5),
    ]
    assert ratios([ours]) == []


def test_lines_have_the_columns_of_the_heading() -> None:
    figures = measured([Run((0.5, 1.0), (2.5, 4.0), 20)])
    together = dataclasses.replace(figures, kind=BOTH, model=f"a{TOGETHER}b")
    for line in (line_of(figures), line_of(together)):
        assert len(line) == len(heading())
        assert line.split()[-len(HEADINGS) :][:3] == ["2", "20", "5.0"]
    assert line_of(together).startswith("all of them ")
    assert line_of(dataclasses.replace(figures, model="/some/folder/tiny")).startswith("tiny ")


def test_sentences() -> None:
    found = [
        Ratio("/some/model", "slow fp32", SAMPLED, 30, 2.5),
        Ratio("/some/model", "fast int8", SAMPLED, 30, 0.5),
        Ratio("/some/model", "slow fp32", GREEDY, 1, 3.0),
    ]
    assert ratio_lines(found) == [
        "model, 30 users, sampled: 2.50 times slow fp32, 0.50 times fast int8",
        "model, 1 user, greedy: 3.00 times slow fp32",
    ]
    share = make_share("model", 1, "memory reads", 5e9, 20e9)
    assert share.fraction == 0.25
    assert share_line(share) == (
        "model, 1 user: 25% of the machine's memory reads (5.0 of 20.0 billion a second)"
    )
