"""The cache pool: rows come on demand, are used again, and never exceed the maximum."""

import pytest

from stentor.engine.cache import CachePool
from stentor.loading import LlamaShape

SHAPE = LlamaShape(
    vocab_size=10,
    hidden_size=32,
    intermediate_size=64,
    num_layers=3,
    num_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    context_length=128,
    rms_norm_eps=1e-6,
    rope_theta=10_000.0,
    is_tied=True,
)


def test_a_row_has_room_for_the_whole_context() -> None:
    pool = CachePool(SHAPE, capacity=100, max_rows=1)
    row = pool.take()
    assert tuple(row.keys.shape) == tuple(row.values.shape) == (3, 2, 100, 8)


def test_a_row_given_back_is_used_again_and_empty() -> None:
    pool = CachePool(SHAPE, capacity=16, max_rows=2)
    first = pool.take()
    first.length = 9
    pool.give_back(first)
    assert pool.take() is first
    assert first.length == 0


def test_more_rows_than_the_maximum_are_our_own_mistake() -> None:
    pool = CachePool(SHAPE, capacity=16, max_rows=2)
    assert pool.take() is not pool.take()
    with pytest.raises(AssertionError):
        pool.take()
