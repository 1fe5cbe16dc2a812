"""The learning rate at every step."""

import math
from itertools import pairwise

import pytest

from training.schedule import learning_rate_factor
from training.settings import PretrainSettings


def factors(total: int, warmup: float, final: float) -> list[float]:
    settings = PretrainSettings(num_steps=total, warmup_fraction=warmup, final_fraction=final)
    return [learning_rate_factor(step, settings) for step in range(total)]


def wsd_factors(
    total: int, warmup: float = 0.0, decay: float = 0.2, final: float = 0.0
) -> list[float]:
    settings = PretrainSettings(
        num_steps=total,
        schedule="wsd",
        warmup_fraction=warmup,
        decay_fraction=decay,
        final_fraction=final,
    )
    return [learning_rate_factor(step, settings) for step in range(total)]


def test_warm_up_then_cosine() -> None:
    values = factors(100, 0.05, 0.0)
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[5] == 1.0
    for step in (20, 50, 99):
        expected = 0.5 * (1 + math.cos(math.pi * (step - 5) / 95))
        assert values[step] == pytest.approx(expected)
    assert values[5:] == sorted(values[5:], reverse=True)
    assert 0 < values[-1] < 0.001


def test_the_rate_ends_at_its_final_share() -> None:
    assert factors(1000, 0.01, 0.1)[-1] == pytest.approx(0.1, abs=1e-4)
    assert set(factors(50, 0.0, 1.0)) == {1.0}


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 1.0])
def test_short_stages_never_leave_the_range(total: int, warmup: float) -> None:
    for value in factors(total, warmup, 0.1):
        assert 0.1 <= value <= 1.0
    assert max(factors(total, warmup, 0.1)) == 1.0


def test_a_stage_that_only_warms_up() -> None:
    assert factors(4, 1.0, 0.0) == [0.25, 0.5, 0.75, 1.0]


def test_warm_up_then_stable_then_a_straight_line() -> None:
    values = wsd_factors(100, warmup=0.1, decay=0.2, final=0.1)
    assert values[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(values[10:80]) == {1.0}
    falls = [before - after for before, after in pairwise(values[79:])]
    assert falls == pytest.approx([0.9 / 21] * 20)
    assert values[-1] - 0.9 / 21 == pytest.approx(0.1), "reached one step after the last"


def test_a_wsd_schedule_may_do_without_each_of_its_parts() -> None:
    assert wsd_factors(5, warmup=0.4, decay=0.0) == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert wsd_factors(4, decay=1.0) == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert wsd_factors(4, warmup=0.5, decay=0.5) == pytest.approx([0.5, 1.0, 2 / 3, 1 / 3])
    assert wsd_factors(1) == wsd_factors(1, decay=1.0) == [0.5]
    assert wsd_factors(1, decay=0.0) == wsd_factors(1, warmup=1.0, decay=0.0) == [1.0]


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 0.0), (0.05, 0.2), (0.5, 0.5), (0.9, 0.1)])
def test_short_wsd_stages_never_leave_the_range(total: int, warmup: float, decay: float) -> None:
    values = wsd_factors(total, warmup, decay, final=0.1)
    assert all(0.1 <= value <= 1.0 for value in values)


def test_two_stages_can_be_one_schedule() -> None:
    """Stable to the end, then a stage that decays: the rates of one long WSD stage."""
    whole = wsd_factors(100, warmup=0.1, decay=0.2)
    parts = wsd_factors(60, warmup=1 / 6, decay=0.0) + wsd_factors(40, decay=0.5)
    assert parts == pytest.approx(whole)


def test_seven_hundredths_of_a_hundred_steps_are_seven() -> None:
    """100 * 0.07 is a little more than 7 in floating point, and warmed up for eight steps."""
    assert factors(100, 0.07, 0.0)[6] == 1.0
    assert factors(100, 0.07, 0.0)[7] == 1.0 > factors(100, 0.07, 0.0)[8]


def test_a_token_budget_sets_the_length() -> None:
    settings = PretrainSettings(budget="tokens", num_tokens=10 * 2048, warmup_fraction=0.2)
    assert settings.total_steps() == 10
    assert [learning_rate_factor(step, settings) for step in (0, 1)] == [0.5, 1.0]
