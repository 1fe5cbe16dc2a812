"""The operators of a step, against their definitions in float64 and at the ends of fp32."""

import numpy as np
import pytest
from kernel_entries import kept
from numpy.typing import NDArray

from stentor.engine.cpu.kernels import (
    HIGHEST_EXPONENT,
    LOWEST_EXPONENT,
    exponential,
    largest_value,
    nearest,
    not_finite,
    rms_norm,
    rotate,
    store_inputs,
    swiglu,
)
from stentor.engine.cpu.packing import INT16_LIMIT, Floats, Inputs, Layout, make_inputs

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).tiny)
# NaN as C writes it, and as x86 answers 0 * infinity: with the sign bit.
NANS = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(np.float32).tolist()


@kept
def exponentials(values: Floats, out: Floats) -> None:
    for index in range(values.size):
        out[index] = exponential(values[index])


@kept
def nearest_numbers(values: Floats, out: Floats) -> None:
    for index in range(values.size):
        out[index] = nearest(values[index])


@kept
def summarise(values: Floats, out: Floats) -> None:
    out[0], out[1] = largest_value(values), not_finite(values)


@kept
def normalise(values: Floats, gain: Floats, epsilon: float, out: Floats) -> None:
    rms_norm(values, gain, epsilon, out)


@kept
def activate(gate_up: Floats, out: Floats) -> None:
    swiglu(gate_up, out)


@kept
def turn(vector: Floats, cosines: Floats, sines: Floats, factor: np.float32) -> None:
    rotate(vector, cosines, sines, factor)


@kept
def store(values: Floats, limit: float, inputs: Inputs, scales: Floats, row: int) -> None:
    store_inputs(values, limit, inputs, scales, row)


def floats(*values: float) -> Floats:
    return np.array(values, np.float32)


def exp(values: Floats) -> Floats:
    out = np.empty_like(values)
    exponentials(values, out)
    return out


def test_the_exponential_is_within_2e_7_over_its_whole_range() -> None:
    values = np.linspace(LOWEST_EXPONENT, HIGHEST_EXPONENT, 1_000_003).astype(np.float32)[1:]
    # And around the places where the power of two changes.
    steps = ((np.arange(-125, 127) + 0.5) * np.log(2)).astype(np.float32)
    near = (steps[:, None] + np.float32(1e-6) * np.arange(-50, 51, dtype=np.float32)).ravel()
    for chosen in (values, near, np.linspace(-1e-3, 1e-3, 10_001).astype(np.float32)):
        expected = np.exp(chosen.astype(np.float64))
        assert (abs(exp(chosen) - expected) / expected).max() < 2e-7


def test_the_exponential_at_its_ends() -> None:
    below = np.nextafter(LOWEST_EXPONENT, np.float32(0))
    assert exp(floats(0.0, -0.0)).tolist() == [1.0, 1.0], "the likeliest token is exactly that"
    assert exp(floats(float(LOWEST_EXPONENT), -88.0, -1e30, -np.inf)).tolist() == [0.0] * 4
    assert exp(floats(float(below)))[0] > TINY, "the smallest result is a normal number"
    held = exp(floats(float(HIGHEST_EXPONENT), 89.0, 1e30, np.inf))
    assert np.isfinite(held).all() and len(set(held.tolist())) == 1
    assert exp(floats(*NANS)).tolist() == [0.0, 0.0], "whoever may meet one looks for it first"


def test_the_exponential_never_exceeds_that_of_0_for_what_is_below() -> None:
    """Draws read the bits of e**x as integers below 2**30: no probability may exceed 1."""
    values = -np.logspace(-12, 1.9, 200_000).astype(np.float32)
    assert exp(values).max() <= 1.0 and (exp(values) >= 0.0).all()


def test_nearest_rounds_halves_to_even() -> None:
    whole = np.arange(-40_000, 40_000, dtype=np.float32)
    for fraction in (0.0, 0.25, 0.5, 0.75):
        values, out = whole + np.float32(fraction), np.empty_like(whole)
        nearest_numbers(values, out)
        assert np.array_equal(out, np.rint(values))


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [-3.0],
        [-3.0, -2.0, -7.5],
        [0.0, -0.0],
        [-LARGEST, LARGEST],
        [-LARGEST, -TINY],
        [-np.inf, -5.0],
        [5.0, np.inf],
        [1e-40, -1e-40],
    ],
)
def test_the_largest_value_of_any_numbers(values: list[float]) -> None:
    for order in (values, values[::-1], values * 9):
        out = floats(7.0, 7.0)
        summarise(floats(*order), out)
        assert out[0] == max(floats(*values))


def test_the_largest_of_many() -> None:
    numbers = np.random.default_rng(0)
    for size in (1, 15, 16, 17, 100, 32_771):
        values = numbers.normal(size=size).astype(np.float32) - 3
        out = floats(0.0, 0.0)
        summarise(values, out)
        assert out[0] == values.max() and out[1] == 0


@pytest.mark.parametrize("size", [1, 15, 16, 33, 1000])
@pytest.mark.parametrize("damage", [*NANS, np.inf, -np.inf])
def test_one_number_that_is_none_is_seen_anywhere(damage: float, size: int) -> None:
    out = floats(0.0, 0.0)
    for place in {0, size // 2, size - 1}:
        values = np.full(size, LARGEST, np.float32)
        values[place] = damage
        summarise(values, out)
        assert np.isnan(out[1])
    summarise(np.full(size, -LARGEST, np.float32), out)
    assert out[1] == 0


@pytest.mark.parametrize("size", [1, 7, 32, 511])
@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1.0, 1e6])
def test_rms_norm_is_its_definition(scale: float, size: int) -> None:
    numbers = np.random.default_rng(size)
    values = (numbers.normal(size=size) * scale).astype(np.float32)
    gain, out = numbers.normal(size=size).astype(np.float32), np.empty(size, np.float32)
    for epsilon in (1e-6, 1e-3):
        normalise(values, gain, epsilon, out)
        precise = values.astype(np.float64)
        expected = precise / np.sqrt((precise**2).mean() + epsilon) * gain
        assert np.allclose(out, expected, rtol=2e-6, atol=0)


def test_rms_norm_at_its_ends() -> None:
    gain, out = np.ones(4, np.float32), np.empty(4, np.float32)
    normalise(np.zeros(4, np.float32), gain, 1e-6, out)
    assert out.tolist() == [0.0] * 4
    normalise(floats(1.0, np.nan, 2.0, 3.0), gain, 1e-6, out)
    assert np.isnan(out).all()
    normalise(floats(1.0, np.inf, 2.0, 3.0), gain, 1e-6, out)
    assert np.isnan(out).any()


def test_swiglu_is_its_definition() -> None:
    numbers = np.random.default_rng(1)
    gate = np.concatenate([numbers.normal(size=500) * 10, np.linspace(-86, 86, 500), [0.0]])
    gate_up = np.concatenate([gate, numbers.normal(size=1001)]).astype(np.float32)
    out = np.empty(1001, np.float32)
    activate(gate_up, out)
    precise, up = gate_up[:1001].astype(np.float64), gate_up[1001:]
    assert np.allclose(out, precise / (1 + np.exp(-precise)) * up, rtol=1e-6, atol=0)


def test_swiglu_at_its_ends() -> None:
    gate = floats(200.0, -200.0, LARGEST, -LARGEST, np.nan, np.inf)
    out = np.empty(6, np.float32)
    activate(np.concatenate([gate, np.ones(6, np.float32)]), out)
    assert out[:4].tolist() == [200.0, 0.0, np.float32(LARGEST), 0.0], "no overflow, no NaN"
    assert np.isnan(out[4]) and out[5] == np.inf


@pytest.mark.parametrize("half", [1, 3, 5, 16, 32, 33])
def test_rotation_is_a_product_of_complex_numbers(half: int) -> None:
    numbers = np.random.default_rng(half)
    vector = numbers.normal(size=2 * half).astype(np.float32)
    angles = numbers.uniform(0, 500, half)
    pairs = vector[:half].astype(np.float64) + 1j * vector[half:]
    turned = pairs * np.exp(1j * angles) * 0.125
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    turn(vector, cosines, sines, np.float32(0.125))
    assert np.allclose(vector, np.concatenate([turned.real, turned.imag]), rtol=0, atol=1e-6)


def stored(values: Floats, limit: float) -> tuple[NDArray[np.int16], float]:
    """Return a row of activations in 16 bits, and its scale."""
    inputs, scales = np.full((3, values.size + 2), 99, np.int16), np.full(3, 7.0, np.float32)
    store(values, limit, inputs, scales, 1)
    assert (inputs[[0, 2]] == 99).all() and (inputs[1, values.size :] == 99).all()
    assert scales[0] == scales[2] == 7.0, "other rows are not touched"
    return inputs[1, : values.size], float(scales[1])


@pytest.mark.parametrize("limit", [258.0, 8256.0, float(INT16_LIMIT)])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_activations_use_the_whole_range_and_never_leave_it(scale: float, limit: float) -> None:
    numbers = np.random.default_rng(3)
    for size in (1, 2, 31, 500):
        values = (numbers.normal(size=size) * scale).astype(np.float32)
        inputs, factor = stored(values, limit)
        assert abs(inputs.astype(int)).max() == limit
        assert np.allclose(inputs * np.float64(factor), values, rtol=0, atol=factor * 0.502)


def test_activations_of_zeros_and_of_damage() -> None:
    inputs, factor = stored(np.zeros(20, np.float32), 1000.0)
    assert not inputs.any() and factor == 0.0
    for damage in (*NANS, np.inf, -np.inf):
        values = np.ones(20, np.float32)
        values[13] = damage
        assert np.isnan(stored(values, 1000.0)[1]), "the scale carries it to every output"


def test_fp32_activations_are_copied() -> None:
    values = floats(1.5, np.nan, -np.inf, 1e-40)
    inputs, scales = np.zeros((2, 5), np.float32), np.zeros(2, np.float32)
    store(values, 1000.0, inputs, scales, 1)
    assert np.array_equal(inputs[1, :4], values, equal_nan=True) and not inputs[0].any()
    assert not scales.any(), "they need no scale"


def test_bytes_for_the_tile_unit_are_the_same_whole_numbers() -> None:
    values = np.random.default_rng(3).normal(size=77).astype(np.float32)
    for limit in (8256.0, float(INT16_LIMIT)):
        whole, factor = stored(values, limit)
        inputs, scales = make_inputs(2, 77, Layout.QUADS), np.zeros(2, np.float32)
        store(values, limit, inputs, scales, 1)
        half = inputs.shape[1] // 2
        high, low = inputs[1, :77].astype(int), inputs[1, half : half + 77].view(np.uint8)
        assert np.array_equal(256 * high + low, whole) and scales[1] == np.float32(factor)
