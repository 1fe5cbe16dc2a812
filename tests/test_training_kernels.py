"""The training kernels against fp64: each by itself, at awkward sizes and extreme values."""

import math
import struct
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stentor.engine.cpu.compiled import is_kept
from training.kernels import rows, team
from training.kernels.attention import attention, attention_backward
from training.kernels.team import run

TOLERANCE = 2e-6  # of fp32, relative to the largest value
LARGEST_PIECES = 3 * rows.PIECE_ROWS + 5


@pytest.fixture(params=[1, 2, 3])
def num_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run a test with so many threads, more than some machines have cores."""
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_near(given: Tensor, exact: Tensor) -> None:
    error = (given - exact).abs().max() / exact.abs().max()
    assert error < TOLERANCE, f"{error:.1e}"


def with_gradients(
    function: Callable[..., Tensor], above: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Return a function's outputs in fp64, and its gradients."""
    exact = [values.double().requires_grad_() for values in inputs]
    outputs = function(*exact)
    gradients = torch.autograd.grad(outputs, exact, above.double())
    return outputs.detach(), *gradients


def rotated(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate (batch, length, heads, dim)."""
    first, second = vectors.chunk(2, dim=-1)
    cosines, sines = cosines.double().unsqueeze(1), sines.double().unsqueeze(1)
    parts = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(parts, dim=-1)


def run_attention(sizes: tuple[int, int, int, int, int], spread: float = 1.0) -> list[Tensor]:
    """Return query, key, value, angles, gradient; then outputs and the three gradients."""
    batch, length, heads, groups, dim = sizes
    query = random(batch, length, heads, dim) * spread
    key, value = (random(batch, length, groups, dim, seed=seed) for seed in (1, 2))
    angles = torch.arange(length).unsqueeze(1) * 100.0 ** (-torch.arange(0, dim, 2) / dim)
    turned = query.clone(), key.clone()
    given = (*turned, value, angles.cos(), angles.sin(), *sizes)
    outputs, above = torch.empty_like(query), random(*query.shape, seed=3)
    logarithms = torch.empty(batch, heads, length)
    run(attention, *given, outputs, logarithms)
    gradients = [torch.empty_like(tensor) for tensor in (query, key, value)]
    run(attention_backward, *given, outputs, logarithms, above, *gradients)
    return [query, key, value, angles.cos(), angles.sin(), above, outputs, *gradients]


@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1, 16),
        (2, 7, 2, 1, 16),
        (1, 64, 4, 2, 48),
        (2, 65, 3, 3, 32),
        (1, 200, 6, 2, 80),
        (1, 512, 2, 1, 64),
    ],
)
@pytest.mark.parametrize("spread", [1.0, 60.0], ids=["soft", "sharp"])
def test_attention(sizes: tuple[int, int, int, int, int], spread: float) -> None:
    query, key, value, cosines, sines, above, *computed = run_attention(sizes, spread)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key = (rotated(part, cosines, sines).transpose(1, 2) for part in (query, key))
        attended = functional.scaled_dot_product_attention(
            query, key, value.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return attended.transpose(1, 2)

    expected = with_gradients(attend, above, query, key, value)
    # Scores of some hundreds have an error of 1e-5 in fp32, and so have weights and gradients.
    scale = 1.0 if spread == 1.0 else 1 / 40
    for given, exact in zip(computed, expected, strict=True):
        if exact.abs().max() > 0:  # one position alone: queries and keys change nothing
            error = (given - exact).abs().max() / exact.abs().max().clamp(min=1e-2)
            assert error * scale < TOLERANCE, f"{error:.1e}"


def test_attention_gives_the_same_bits_with_any_number_of_threads(num_threads: int) -> None:
    threaded = run_attention((2, 100, 4, 2, 32))
    torch.set_num_threads(1)
    for given, alone in zip(threaded, run_attention((2, 100, 4, 2, 32)), strict=True):
        assert torch.equal(given, alone)


@pytest.mark.parametrize("shape", [(1, 1), (3, 48), (LARGEST_PIECES, 37)])
def test_rms_norm(num_threads: int, shape: tuple[int, int]) -> None:
    inputs, above, added = (random(*shape, seed=seed) for seed in range(3))
    gain, epsilon = random(shape[1], seed=4), 1e-5
    outputs, inverse = torch.empty_like(inputs), torch.empty(shape[0])
    bits = struct.unpack("q", struct.pack("d", epsilon))[0]
    run(rows.rms_norm, inputs, gain, bits, *shape, outputs, inverse)
    of_inputs = torch.empty_like(inputs)
    of_gain = torch.empty(-(-shape[0] // rows.PIECE_ROWS), shape[1])
    run(rows.rms_norm_backward, inputs, gain, inverse, *shape, above, added, of_inputs, of_gain)

    def norm(inputs: Tensor, gain: Tensor) -> Tensor:
        return functional.rms_norm(inputs, gain.shape, gain, epsilon)

    exact = with_gradients(norm, above, inputs, gain)
    assert_near(outputs, exact[0])
    assert_near(of_inputs, exact[1] + added)
    assert_near(of_gain.sum(0), exact[2])


@pytest.mark.parametrize("count", [1, 1000, 2 * rows.PIECE_NUMBERS + rows.BLOCK_NUMBERS + 3])
def test_swiglu(num_threads: int, count: int) -> None:
    gate, up, above = random(count) * 6, random(count, seed=1), random(count, seed=2)
    gate[0] = -200.0  # e ** 200 is no fp32 number
    outputs, again, of_up = (torch.empty(count) for _ in range(3))
    run(rows.swiglu, gate, up, count, outputs)
    of_gate = above.clone()
    run(rows.swiglu_backward, gate, up, count, of_gate, of_up, again)
    exact = with_gradients(lambda gate, up: functional.silu(gate) * up, above, gate, up)
    assert torch.allclose(again, outputs, rtol=1e-5, atol=1e-7)
    for given, expected in zip((outputs, of_gate, of_up), exact, strict=True):
        assert torch.allclose(given.double(), expected, rtol=2e-5, atol=2e-6)


def test_cross_entropy(num_threads: int) -> None:
    logits = random(70, 301) * 30
    targets = torch.randint(0, 301, (70,), generator=torch.Generator().manual_seed(5))
    targets[3] = -100
    losses, gradient = torch.empty(70), logits.clone()
    run(rows.cross_entropy, gradient, targets, 70, 301, 69, losses)
    loss, expected = with_gradients(
        lambda logits: functional.cross_entropy(logits, targets), torch.ones(()), logits
    )
    assert float(losses.double().sum() / 69) == pytest.approx(float(loss), rel=1e-6)
    assert_near(gradient, expected)
    assert losses[3] == 0 and not gradient[3].any()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_logit_that_is_no_number_makes_no_loss(value: float) -> None:
    logits, losses = random(2, 40), torch.empty(2)
    logits[1, 7] = value
    run(rows.cross_entropy, logits, torch.tensor([3, 4]), 2, 40, 2, losses)
    assert losses[0].isfinite() and losses[1].isnan()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the library in /proc")
def test_the_threads_of_torch_are_found() -> None:
    assert team._openmp() is not None
    torch.set_num_threads(2)
    assert team.is_available()
    torch.set_num_threads(1)


def test_compiled_code_is_kept_for_the_next_start() -> None:
    run(rows.swiglu, random(4), random(4), 4, torch.empty(4))
    assert is_kept(team.SOURCES)
