"""Counted arithmetic: against torch's own counter, and by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_shapes import Sizes, random_model, random_windows, stock_loss

from stentor.loading import LlamaShape
from training import flops
from training.flops import (
    measure_matmul_ceiling,
    num_matrix_parameters,
    training_flops_per_token,
)

BIG = LlamaShape(32_768, 512, 2048, 30, 8, 8, 64, 512, 1e-5, 10_000.0, True)


def test_matrices_of_the_big_model_are_all_its_parameters_but_the_norms() -> None:
    assert num_matrix_parameters(BIG) == 142_637_568 - 61 * 512


def test_flops_by_hand() -> None:
    shape = LlamaShape(100, 8, 16, 1, 2, 1, 4, 512, 1e-5, 10_000.0, False)
    matrices = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 16 + 8 * 100
    # Three positions see 1 + 2 + 3 pairs, each 12 x 8 operations forward and backward.
    assert 3 * training_flops_per_token(shape, 3) == 3 * 6 * matrices + 12 * 8 * 6


def test_products_are_those_that_torch_counts() -> None:
    """Attention apart: torch counts it as if every position saw all others."""
    sizes = Sizes()
    model, windows = random_model(sizes), random_windows(2, 24)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(stock_loss(model, windows))
    by_operator = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in by_operator.items() if "attention" not in str(name))
    shape = LlamaShape(301, 48, 84, 2, 4, 2, 16, 512, 1e-5, 10_000.0, True)
    # The stock path multiplies the last position by the output matrix, too.
    assert 48 * 6 * num_matrix_parameters(shape) == products


def test_a_ceiling_is_measured() -> None:
    assert measure_matmul_ceiling(torch.device("cpu"), "fp32") > 1e8


@pytest.mark.parametrize(("rate", "size"), [(1e12, 1536), (1e10, 768), (3e8, 192)])
def test_a_ceiling_that_must_be_quick_is_one_of_a_smaller_product(
    monkeypatch: pytest.MonkeyPatch, rate: float, size: int
) -> None:
    """bf16 on a processor without it does 0.3 GFLOP/s: one product took half a minute."""
    sizes = []

    def pretend(operands: tuple[torch.Tensor, ...]) -> float:
        sizes.append(len(operands[0]))
        return float(2 * len(operands[0]) ** 3 / rate)

    monkeypatch.setattr(flops, "_seconds_of_product", pretend)
    found = measure_matmul_ceiling(torch.device("cpu"), "bf16", 0.5)
    assert found == pytest.approx(rate)
    assert sizes[:2] == [192, 192] and set(sizes[2:]) == {size}
