"""Products in bf16 end where the block ends, and are near those in fp32."""

import pytest
import torch

from training.products import bf16_products


def test_products_are_near_and_the_setting_is_given_back() -> None:
    one, two = (torch.randn(64, 256, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    exact = one @ two.T
    with bf16_products():
        near = one @ two.T
    assert torch.equal(one @ two.T, exact)
    assert near.dtype == torch.float32
    assert (near - exact).norm() < 0.01 * exact.norm()


def test_an_error_in_the_block_gives_the_setting_back() -> None:
    one = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    exact = one @ one
    with pytest.raises(RuntimeError), bf16_products():
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert torch.equal(one @ one, exact)
