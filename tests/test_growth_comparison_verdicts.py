"""training/growth_comparison/verdicts.py: known numbers, the tie rule, one seed."""

from dataclasses import replace

import pytest
from growth_results import SOURCE_LOSS, make_result, make_results

from training.growth_comparison.options import CONTINUED, DEFAULT_STRATEGY, SCRATCH
from training.growth_comparison.verdicts import (
    BETTER,
    NONE,
    TIE,
    WORSE,
    best_arms,
    make_arms,
    make_verdicts,
    paired_verdict,
    tokens_to_loss,
)


def test_a_difference_of_known_mean_and_standard_error() -> None:
    mean, error, verdict = paired_verdict([-0.3, -0.2, -0.1])
    assert mean == pytest.approx(-0.2)
    assert error == pytest.approx(0.1 / 3**0.5)
    assert verdict == BETTER
    assert paired_verdict([0.3, 0.2, 0.1])[2] == WORSE


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([-0.01, 0.02, 0.01], TIE),
        ([1.0, 3.0], WORSE),  # mean 2, standard error 1: the bound itself is no tie
        ([0.0, 0.0, 0.0], TIE),
        ([0.1, 0.1], WORSE),
    ],
)
def test_less_than_two_standard_errors_is_a_tie(differences: list[float], verdict: str) -> None:
    assert paired_verdict(differences)[2] == verdict


def test_one_seed_gives_a_difference_and_no_verdict() -> None:
    assert paired_verdict([-5.0]) == (-5.0, None, NONE)


def test_verdicts_pair_runs_of_the_same_seed() -> None:
    """Seeds differ by far more than strategies: unpaired, this would be a tie."""
    results = []
    for seed, level in enumerate((2.0, 3.0, 4.0)):
        results += [
            make_result(CONTINUED, seed, [5.0, level]),
            make_result(DEFAULT_STRATEGY, seed, [5.0, level - 0.1 - 0.001 * seed]),
        ]
    (verdict,) = make_verdicts(results, make_arms(results, 5.0), CONTINUED)
    assert verdict.verdict == BETTER
    assert verdict.mean == pytest.approx(-0.101)


def test_an_arm_measures_jump_and_bump_against_the_control() -> None:
    arms = {arm.strategy: arm for arm in make_arms(make_results(1), SOURCE_LOSS)}
    assert arms[SCRATCH].jump == pytest.approx(4.3)
    assert arms[DEFAULT_STRATEGY].jump == 0
    assert arms[DEFAULT_STRATEGY].bump == pytest.approx(0.1)
    assert arms[CONTINUED].bump == 0
    assert arms[SCRATCH].tokens_to_source is None


def test_tokens_to_the_source_count_from_the_last_time_above_it() -> None:
    run = make_result(CONTINUED, 0, [4.0, 4.5, 3.5, 3.0])
    assert tokens_to_loss(run, 4.0) == pytest.approx(1500)
    assert tokens_to_loss(make_result(CONTINUED, 0, [4.0, 3.0]), 4.0) == 0
    assert tokens_to_loss(run, 2.0) is None


def test_each_strategy_stands_with_its_best_share_of_the_rate() -> None:
    results = [
        make_result(CONTINUED, 0, [4.0, 3.0]),
        make_result(CONTINUED, 0, [4.0, 3.2], rate_factor=0.5),
        make_result(DEFAULT_STRATEGY, 0, [4.0, 3.1]),
        make_result(DEFAULT_STRATEGY, 0, [4.0, 2.8], rate_factor=0.5),
    ]
    arms = make_arms(results, SOURCE_LOSS)
    assert {name: arm.rate_factor for name, arm in best_arms(arms).items()} == {
        CONTINUED: 1.0,
        DEFAULT_STRATEGY: 0.5,
    }
    (verdict,) = make_verdicts(results, arms, CONTINUED)
    assert verdict.differences == pytest.approx((-0.2,))


def test_an_arm_of_fewer_finished_runs_is_not_the_best_one() -> None:
    """Halfway through, the one seed that is done may be the easy one."""
    results = make_results(2)
    lucky = make_result(DEFAULT_STRATEGY, 0, [4.0, 1.0], rate_factor=0.5)
    arms = make_arms([*results, lucky], SOURCE_LOSS)
    assert best_arms(arms)[DEFAULT_STRATEGY].rate_factor == 1.0


def test_a_run_that_diverged_is_counted_and_not_averaged() -> None:
    results = make_results(2)
    results[-1] = replace(results[-1], error="training has diverged")
    arm = next(a for a in make_arms(results, SOURCE_LOSS) if a.strategy == SCRATCH)
    assert (arm.num_runs, arm.num_failed) == (1, 1)
    assert arm.standard_error is None
