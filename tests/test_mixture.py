"""Which window of which source a step reads."""

import numpy as np
import pytest

from training.mixture import PERIOD, make_mixture, shares, shuffled_rows


@pytest.mark.parametrize("num_rows", [1, 2, 3, 5, 16, 17, 100, 1000, 4097])
def test_an_epoch_is_a_permutation_of_any_size(num_rows: int) -> None:
    places = np.arange(num_rows)
    orders = [shuffled_rows(places, num_rows, (2**63 - 1, 4, epoch)) for epoch in range(3)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(num_rows))
    if num_rows >= 16:
        assert len({tuple(order.tolist()) for order in orders}) == 3, "an order for each epoch"
        assert orders[0].tolist() != list(range(num_rows))


def test_a_place_far_out_costs_what_the_first_one_does() -> None:
    """A table of the order would take 80 TB here."""
    places = np.array([0, 10**12, 10**13 - 1])
    rows = shuffled_rows(places, 10**13, (0,))
    assert len(set(rows.tolist())) == 3 and bool((rows >= 0).all() and (rows < 10**13).all())


def test_every_order_of_three_is_drawn_about_as_often() -> None:
    drawn = [tuple(shuffled_rows(np.arange(3), 3, (seed,)).tolist()) for seed in range(600)]
    assert all(70 < drawn.count(order) < 130 for order in set(drawn)) and len(set(drawn)) == 6


def test_an_order_is_the_same_on_every_machine() -> None:
    assert shuffled_rows(np.arange(10), 10, (7, 0, 1)).tolist() == [4, 1, 6, 3, 0, 5, 2, 7, 8, 9]


@pytest.mark.parametrize("weights", [(75.0, 25.0), (1.0, 1.0, 1.0), (3.0, 1.0, 0.5, 9.0), (2.0,)])
def test_sources_are_interleaved_evenly_by_weight(weights: tuple[float, ...]) -> None:
    mixture = make_mixture(weights, seed=3)
    numbers = np.arange(3000)
    source, before = mixture.locate(numbers)
    for index, weight in enumerate(weights):
        mine = source == index
        # Windows of a source come in order, none left out.
        assert before[mine].tolist() == list(range(int(mine.sum())))
        due = numbers * weight / sum(weights)
        assert float(np.abs(np.cumsum(mine) - mine - due).max()) < 1.5 + len(numbers) / PERIOD


def test_equal_weights_take_turns() -> None:
    source, _ = make_mixture((5.0, 5.0), seed=1).locate(np.arange(100))
    assert bool((source[1:] != source[:-1]).all())


def test_any_step_is_reached_at_once() -> None:
    mixture = make_mixture((75.0, 20.0, 5.0), seed=0)
    for number in (0, 1, 999, PERIOD, 5 * PERIOD + 77):
        source, _ = mixture.locate(np.arange(number))
        counts = np.bincount(source, minlength=3)
        assert mixture.windows_before(number) == tuple(counts.tolist())
    assert sum(mixture.windows_before(10**15 + 1)) == 10**15 + 1


def test_a_source_of_hardly_any_weight_is_read_all_the_same() -> None:
    assert make_mixture((1e6, 0.001), seed=0).counts == (PERIOD - 1, 1)


def test_the_interleaving_depends_on_the_seed_alone() -> None:
    first, again, other = (make_mixture((75.0, 25.0), seed) for seed in (1, 1, 2))
    assert first.source.tolist() == again.source.tolist() != other.source.tolist()


def test_whole_parts_are_shared_out_by_weight() -> None:
    assert shares((75.0, 25.0), 8) == (6, 2)
    assert shares((1.0, 1.0, 1.0), 8) == (3, 3, 2)
    assert shares((1000.0, 0.001), 8) == (8, 0)
    assert shares((1000.0, 0.001), 8, at_least=1) == (7, 1)
    assert shares((1.0,) * 5, 3, at_least=1) == (1, 1, 1, 1, 1)
