"""Answers from logits, against a slow and plain reference of what the settings mean."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from draw_reference import UNWRITTEN, Ask, answers_to, drawn, expected, prefix

from stentor.engine.cpu.packing import Floats
from stentor.engine.decoder import MAX_ALTERNATIVES, NOT_FINITE
from stentor.engine.sampling import uniform

LAST = 1 - 2.0**-53  # the largest number that a draw can get
STENTOR_BIG_VOCABULARY = 32_771


def logits_of(size: int, scale: float, seed: int, *, ties: bool = False) -> Floats:
    values = np.random.default_rng(seed).normal(size=size) * scale
    return (np.round(values) if ties else values).astype(np.float32)


TEMPERATURES = (1.0, 0.05, 0.5, 1.3, 2.0)
TOP_KS = (0, 1, 2, 40, 1000)
TOP_PS = (1.0, 0.01, 0.42137, 0.9, 0.99973)
MIN_PS = (0.0, 1e-6, 0.0531, 0.61, 1.0)
PENALTIES = (1.0, 0.5, 1.17, 2.0)
SETTINGS = list(itertools.product(TEMPERATURES, TOP_KS, TOP_PS, MIN_PS, PENALTIES))


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("scale", [0.0, 0.3, 2.0, 8.0, 60.0])
@pytest.mark.parametrize("size", [1, 2, 47, 48, 49, 300, 4096])
def test_settings_of_all_kinds_crossed_mean_what_they_say(
    size: int, scale: float, is_tied: bool
) -> None:
    numbers = np.random.default_rng(size)
    logits = logits_of(size, scale, seed=size, ties=is_tied)
    seen = numbers.choice(size, size // 3, replace=False).tolist()
    chosen = numbers.choice(len(SETTINGS), 120, replace=False)
    asks = [Ask(float(numbers.random()), *SETTINGS[number]) for number in chosen]
    assert drawn(logits, asks, seen) == [expected(logits, ask, seen) for ask in asks]


def test_a_large_vocabulary_is_drawn_from_like_a_small_one() -> None:
    numbers = np.random.default_rng(0)
    for scale in (0.0, 1.0, 4.0):
        logits = logits_of(STENTOR_BIG_VOCABULARY, scale, seed=3)
        seen = numbers.choice(logits.size, 400).tolist()
        for number in numbers.choice(len(SETTINGS), 25, replace=False):
            ask = Ask(float(numbers.random()), *SETTINGS[number])
            assert drawn(logits, [ask], seen) == [expected(logits, ask, seen)], ask


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("size", [1, 7, 49, 2000])
def test_the_ends_of_the_numbers_are_the_ends_of_what_is_kept(size: int, scale: float) -> None:
    logits = logits_of(size, scale, seed=9)
    for top_k, top_p, min_p in itertools.product((0, 5), (1.0, 0.7), (0.0, 0.2)):
        ask = Ask(top_k=top_k, top_p=top_p, min_p=min_p)
        order, masses = prefix(logits, ask, ())
        first, last = drawn(logits, [replace(ask, number=0.0), replace(ask, number=LAST)])
        assert first == order[0]
        place = order.tolist().index(last)
        # Tokens too unlikely to change a sum of doubles cannot be drawn by anybody.
        assert masses[place + 1 :].sum() < 1e-9 * masses.sum()
        assert masses[place] > 0


def test_equal_tokens_are_taken_in_the_order_of_their_ids() -> None:
    logits = np.array([0, 2, 1, 2, 1, 2, 1, 0], np.float32)
    grid = [(place + 0.5) / 600 for place in range(600)]
    for settings, kept_ids in (
        (Ask(), [1, 3, 5, 2, 4, 6, 0, 7]),
        (Ask(top_k=2), [1, 3]),
        (Ask(top_k=4), [1, 3, 5, 2]),
        (Ask(min_p=1.0), [1, 3, 5]),
        (Ask(min_p=0.36), [1, 3, 5, 2, 4, 6]),
        (Ask(top_p=0.01), [1]),
        (Ask(top_k=3, top_p=0.5), [1, 3]),
        (Ask(top_k=3, top_p=0.999), [1, 3, 5]),
        (Ask(top_k=3, top_p=0.999, min_p=1.0), [1, 3, 5]),
        (Ask(temperature=0.0), [1]),
        (Ask(temperature=0.01), [1, 3, 5]),
    ):
        tokens = drawn(logits, [replace(settings, number=number) for number in grid])
        assert list(dict.fromkeys(tokens)) == kept_ids, "each once, likeliest first"


@pytest.mark.parametrize("size", [4, 64, 1024, 4096])
def test_of_equal_tokens_each_filter_keeps_exactly_its_share(size: int) -> None:
    """Powers of two: all masses are exact. top-p keeps the fewest that reach it, not one more."""
    logits = np.full(size, -3.5, np.float32)
    for settings, count in (
        (Ask(top_p=0.25), size // 4),
        (Ask(top_p=0.25 + 1e-9), size // 4 + 1),
        (Ask(top_p=0.25 - 1e-9), size // 4),
        (Ask(top_k=size // 2, top_p=0.5), size // 4),
        (Ask(top_k=size // 2), size // 2),
        (Ask(top_k=size), size),
        (Ask(top_k=size + 7), size),
        (Ask(min_p=1.0), size),
        (Ask(top_k=1), 1),
    ):
        # Each token has its equal part of the numbers.
        places = range(0, count, 1 + count // 100)
        numbers = [*(place / count for place in places), LAST]
        asks = [replace(settings, number=number) for number in numbers]
        assert drawn(logits, asks) == [*places, count - 1], settings


def test_top_k_of_1_and_a_tiny_temperature_are_greedy() -> None:
    for scale in (0.5, 5.0):
        for seed in range(20):
            logits = logits_of(500, scale, seed=seed)
            asks = [
                Ask(LAST, temperature=0.0),
                Ask(LAST, top_k=1),
                Ask(LAST, top_p=0.01, top_k=1),
                Ask(LAST, min_p=1.0),
                Ask(LAST, temperature=1e-6),
                Ask(LAST, temperature=1e-30),
                Ask(LAST, temperature=1e-46),  # 0 in fp32
            ]
            assert set(drawn(logits, asks)) == {int(logits.argmax())}


def test_at_temperature_0_only_the_penalty_counts() -> None:
    logits = np.array([1.0, 3.0, 2.9, -1.0], np.float32)
    greedy = Ask(temperature=0.0, top_k=1, top_p=0.01, min_p=1.0)
    assert drawn(logits, [greedy], seen=[1]) == [1]
    assert drawn(logits, [replace(greedy, repetition_penalty=1.1)], seen=[1]) == [2]
    assert drawn(logits, [replace(greedy, repetition_penalty=2.0)], seen=[1, 2]) == [1]
    assert drawn(logits, [replace(greedy, repetition_penalty=0.5)], seen=[2]) == [2]
    assert drawn(-logits, [greedy], seen=[3]) == [3], "1, the largest of -1, -3, -2.9 and 1"
    assert drawn(np.zeros(5, np.float32), [greedy]) == [0], "of equal ones the lowest id"
    assert drawn(np.array([-0.0, 0.0], np.float32), [greedy]) == [0], "zeros are equal"


def test_negative_logits_are_multiplied_by_the_penalty() -> None:
    logits = np.array([-2.0, -3.0, -10.0], np.float32)
    greedy = Ask(temperature=0.0, repetition_penalty=2.0)
    assert drawn(logits, [greedy], seen=[0]) == [1]
    assert drawn(logits, [greedy], seen=[0, 1]) == [0]
    assert drawn(logits, [greedy]) == [0], "nothing seen, nothing changed"


@pytest.mark.parametrize("temperature", [0.0, 0.05, 1.0])
def test_logits_at_the_end_of_fp32_draw_a_token(temperature: float) -> None:
    """A penalty made them infinite, and what was drawn was a number from uninitialised memory."""
    for values in ([2e38, 1, 2, 3], [-2e38, -3e38, -2e38, -3e38], [3e38, 3e38, -3e38, -3e38]):
        logits = np.array(values, np.float32)
        for penalty, top_p, top_k in itertools.product((0.5, 2.0), (1.0, 0.9), (0, 3)):
            ask = Ask(0.3, temperature, top_k, top_p, repetition_penalty=penalty)
            for seen in ([0], [0, 1, 2, 3]):
                (token,) = drawn(logits, [ask], seen)
                assert 0 <= token < 4
                if values[0] > 0:
                    assert logits[token] == logits.max()


@pytest.mark.parametrize("size", [5, 300, 3000])
@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_said_to_be_none(damage: float, size: int) -> None:
    for place in (0, size // 2, size - 1):
        logits = logits_of(size, 1.0, seed=0)
        logits[place] = damage
        asks = [Ask(), Ask(temperature=0.0), Ask(target=1), Ask(num_alternatives=4)]
        assert drawn(logits, asks) == [NOT_FINITE] * 4


def test_every_number_falls_into_the_part_of_its_token() -> None:
    """On an even grid each token is drawn as often as it is likely, to a count of 1."""
    logits = logits_of(60, 2.0, seed=5)
    size = 20_000
    grid = [Ask((place + 0.5) / size) for place in range(size)]
    counts = np.bincount(drawn(logits, grid), minlength=60)
    masses = np.exp(logits.astype(np.float64))
    assert abs(counts - size * masses / masses.sum()).max() <= 1


@pytest.mark.parametrize("settings", [Ask(), Ask(0.5, 0.7, 20, 0.95), Ask(0.5, 1.5, min_p=0.02)])
def test_draws_are_as_frequent_as_their_probabilities(settings: Ask) -> None:
    """Pearson's chi-square over 20,000 draws with the numbers that requests get."""
    logits = logits_of(40, 1.5, seed=2)
    size = 20_000
    asks = [replace(settings, number=uniform(11, index)) for index in range(size)]
    order, masses = prefix(logits, settings, ())
    wanted = size * masses / masses.sum()
    counts = np.bincount(drawn(logits, asks), minlength=40)
    assert counts.sum() == counts[order].sum() == size, "nothing that was ruled out"
    is_frequent = wanted >= 5
    statistic = ((counts[order] - wanted)[is_frequent] ** 2 / wanted[is_frequent]).sum()
    freedom = int(is_frequent.sum()) - 1
    assert statistic < freedom + 4 * np.sqrt(2 * freedom), "4 standard deviations"


@pytest.mark.parametrize("size", [1, 3, 320, STENTOR_BIG_VOCABULARY])
def test_what_is_told_of_a_token_is_the_model_s_own(size: int) -> None:
    """log-probability, rank and alternatives know nothing of penalty, temperature and filters."""
    logits = logits_of(size, 3.0, seed=1)
    precise = logits.astype(np.float64)
    scores = precise - precise.max() - np.log(np.exp(precise - precise.max()).sum())
    targets = np.random.default_rng(0).choice(size, min(size, 30), replace=False).tolist()
    asks = [Ask(target=target, num_alternatives=10) for target in targets]
    asks += [Ask(0.77, 1.4, 50, 0.9, 0.01, 1.3, num_alternatives=10)]
    answers = answers_to(logits, asks, seen=range(size // 2))
    assert answers.token_ids[:-1].tolist() == targets
    count = min(size, MAX_ALTERNATIVES)
    for place, token in enumerate(answers.token_ids.tolist()):
        assert answers.log_probabilities[place] == pytest.approx(scores[token], abs=1e-6)
        assert answers.ranks[place] == 1 + (logits > logits[token]).sum()
        ids = answers.alternative_ids[place, :count]
        assert ids.tolist() == np.argsort(-logits, kind="stable")[:count].tolist()
        received = answers.alternative_log_probabilities[place, :count]
        assert np.allclose(received, scores[ids], rtol=0, atol=1e-6)
        if token in ids:  # the same number in both places, to the bit
            assert received[ids.tolist().index(token)] == answers.log_probabilities[place]


def test_equal_tokens_share_the_best_rank_and_are_listed_by_id() -> None:
    logits = np.array([1, 5, 1, 5, 0, 1], np.float32)
    answers = answers_to(logits, [Ask(target=token, num_alternatives=4) for token in range(6)])
    assert answers.ranks.tolist() == [3, 1, 3, 1, 6, 3]
    assert answers.alternative_ids[0, :4].tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize("count", range(MAX_ALTERNATIVES + 1))
def test_as_many_alternatives_as_were_asked_for(count: int) -> None:
    logits = logits_of(100, 2.0, seed=4)
    answers = answers_to(logits, [Ask(num_alternatives=count)])
    listed = answers.alternative_ids[0].tolist()
    assert listed[:count] == np.argsort(-logits, kind="stable")[:count].tolist()
    assert listed[count:] == [UNWRITTEN] * (MAX_ALTERNATIVES - count), "and nothing beyond"


def test_certain_tokens_have_no_probability_above_1() -> None:
    logits = np.full(1000, -300.0, np.float32)
    logits[17] = 300.0
    answers = answers_to(logits, [Ask(target=17), Ask(target=3), Ask(LAST)])
    assert answers.token_ids.tolist() == [17, 3, 17]
    assert answers.log_probabilities.tolist() == [0.0, -600.0, 0.0]
    assert answers.ranks.tolist() == [1, 2, 1]
