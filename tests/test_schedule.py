"""The learning rate at every step."""

import math

import pytest

from training.schedule import learning_rate_factor


def factors(total: int, warmup: float, final: float) -> list[float]:
    return [learning_rate_factor(step, total, warmup, final) for step in range(total)]


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
