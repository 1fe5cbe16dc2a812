"""Which window a step reads: a mixture of sources by weight, each in a seeded order every epoch.

Everything is a closed form of the window's number, so any step is reached at once and nothing needs
to be kept between steps. Knows no files.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Weights are rounded to so many parts, after which the interleaving repeats.
PERIOD = 1 << 14
FEISTEL_ROUNDS = 6


def shares(weights: tuple[float, ...], total: int, *, at_least: int = 0) -> tuple[int, ...]:
    """Share out `total` by weight, in whole parts (largest remainders), each `at_least` so many.

    With a lower bound the sum may be more than `total`, where that is too little for it.
    """
    exact = np.array(weights, np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - counts), kind="stable")
    counts[by_remainder[: total - int(counts.sum())]] += 1
    counts = np.maximum(counts, at_least)
    while counts.sum() > total and counts.max() > at_least:
        counts[int(np.argmax(counts))] -= 1  # the largest can spare it
    return tuple(int(count) for count in counts)


@dataclass(frozen=True)
class Mixture:
    """An endless interleaving of sources: stride scheduling, the same in every period."""

    counts: tuple[int, ...]  # windows of each source in a period
    source: NDArray[np.int64]  # (period,)
    rank: NDArray[np.int64]  # (period,) how many windows of that source came before in the period

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (source, how many windows of it came before) of windows by number."""
        periods, slots = np.divmod(numbers, len(self.source))
        source = self.source[slots]
        return source, periods * np.array(self.counts)[source] + self.rank[slots]

    def windows_before(self, number: int) -> tuple[int, ...]:
        """Return how many windows of each source the first `number` windows hold."""
        periods, slots = divmod(number, len(self.source))
        inside = np.bincount(self.source[:slots], minlength=len(self.counts))
        return tuple(
            periods * count + int(extra) for count, extra in zip(self.counts, inside, strict=True)
        )


def make_mixture(weights: tuple[float, ...], seed: int) -> Mixture:
    """Spread the sources evenly: window k of a source with `count` in the period is due at
    (k + phase) / count of it, with a phase drawn from the seed.
    """
    counts = shares(weights, PERIOD if len(weights) > 1 else 1, at_least=1)
    phases = np.random.default_rng([seed, len(weights)]).random(len(weights))
    due = [(np.arange(count) + phase) / count for count, phase in zip(counts, phases, strict=True)]
    order = np.argsort(np.concatenate(due), kind="stable")
    source = np.repeat(np.arange(len(counts)), counts)[order]
    rank = np.concatenate([np.arange(count) for count in counts])[order]
    return Mixture(counts, source, rank)


def shuffled_rows(
    places: NDArray[np.int64], num_rows: int, seed: tuple[int, ...]
) -> NDArray[np.int64]:
    """Return which row stands at each place (0 <= place < num_rows) of a seeded order of all rows.

    A Feistel network over the next power of four, walked along its cycles until it is back inside
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002): a permutation of any size
    without a table of it. `seed` holds numbers of up to 64 bits.
    """
    half_bits = max(1, ((num_rows - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64).astype(np.uint64)
    rows = places.astype(np.uint64)
    outside = np.ones(len(rows), bool)
    while outside.any():
        rows[outside] = _feistel(rows[outside], half_bits, keys)
        outside = rows >= num_rows
    return rows.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Permute 0 .. 4**half_bits - 1."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # 64-bit products wrap around
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << shift) | right
