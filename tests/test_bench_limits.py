"""What a token costs, counted by hand; and limits that are measured, not assumed."""

from stentor.bench.limits import count_multiply_adds, measure_limits, measure_reads, weight_bytes
from stentor.bench.random_checkpoint import SHAPES

BIG = SHAPES["stentor-big"]
LAYERS = 30 * (4 * 512 * 512 + 3 * 512 * 2048)
HEAD = 32_768 * 512


def test_a_token_that_is_answered_also_goes_through_the_head() -> None:
    assert count_multiply_adds(BIG, 1, 0) == LAYERS + HEAD
    assert count_multiply_adds(BIG, 80, 11) == 91 * LAYERS + 80 * HEAD


def test_a_token_reads_every_matrix_once() -> None:
    assert weight_bytes(BIG, "int8") == LAYERS + HEAD
    assert weight_bytes(BIG, "fp32") == 4 * weight_bytes(BIG, "int8")


def test_limits_are_measured() -> None:
    limits = measure_limits("int8", 1)
    assert set(limits.multiply_adds) == {"int8", "fp32"}
    assert all(1e8 < rate < 1e13 for rate in limits.multiply_adds.values())
    assert 1e8 < limits.read_bytes < 1e13
    assert 1e8 < limits.matrix_product_operations < 1e14
    assert 1e8 < measure_reads(60_000, "int8", 2) < 1e14
