"""Sampling over rows: the semantics of sampling.py, each row as if it were alone."""

import math

import pytest
import torch
from torch import Tensor
from torch_models import on_gpu

from stentor.engine.decoder import NOT_FINITE, Draw
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.torch_sampling import choose, draw_columns, likeliest, measure, seen_tokens

NUM_ROWS, VOCABULARY = 60, 97
SETTINGS = [
    SamplingSettings(),
    SamplingSettings(temperature=0.0),
    SamplingSettings(temperature=0.0, repetition_penalty=2.0),
    SamplingSettings(temperature=1.0, top_p=1.0),
    SamplingSettings(temperature=1.0, top_p=1.0, top_k=7),
    SamplingSettings(temperature=1.7, top_p=0.3, repetition_penalty=1.3),
    SamplingSettings(temperature=0.8, top_p=0.75, top_k=12, repetition_penalty=0.7),
    SamplingSettings(temperature=1.0, top_p=0.01),
    SamplingSettings(temperature=1.5, top_p=1.0, min_p=0.1),
    SamplingSettings(temperature=2.0, top_p=0.95, top_k=1000, min_p=0.02, repetition_penalty=2.0),
    SamplingSettings(temperature=0.01, top_p=1.0),
    SamplingSettings(temperature=1.0, top_p=1.0, min_p=1.0),
]


def expected_token(logits: list[float], seen: set[int], draw: Draw) -> int:
    """Follow the words of sampling.py, one token after the other, in double."""
    settings = draw.settings
    values = []
    for token_id, value in enumerate(logits):
        if token_id in seen:
            penalty = settings.repetition_penalty
            value = value * penalty if value < 0 else value / penalty
        values.append(value)
    order = sorted(range(len(values)), key=lambda token_id: (-values[token_id], token_id))
    if settings.temperature == 0.0:
        return order[0]
    largest = values[order[0]]
    masses = [math.exp((values[token_id] - largest) / settings.temperature) for token_id in order]
    kept = min(settings.top_k or len(order), len(order))
    wanted = settings.top_p * sum(masses[:kept])
    by_top_p = next(n for n in range(1, kept + 1) if n == kept or sum(masses[:n]) >= wanted)
    by_min_p = sum(mass >= settings.min_p for mass in masses)
    kept = min(kept, by_top_p, by_min_p)
    aim, reached = draw.number * sum(masses[:kept]), 0.0
    for token_id, mass in zip(order[:kept], masses[:kept], strict=True):
        reached += mass
        if reached > aim:
            return token_id
    return order[kept - 1]


def random_rows(seed: int = 5) -> tuple[Tensor, Tensor, list[Draw]]:
    """Return logits, what was seen, and draws of every kind in one batch."""
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randn(NUM_ROWS, VOCABULARY, generator=numbers) * 3.0
    seen = torch.rand(NUM_ROWS, VOCABULARY, generator=numbers) < 0.3
    draws = [Draw(SETTINGS[row % len(SETTINGS)], uniform(seed, row)) for row in range(NUM_ROWS)]
    return logits, seen, draws


def table_of(draws: list[Draw]) -> Tensor:
    return torch.tensor([draw_columns(draw) for draw in draws], dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_of_every_kind_draws_what_the_definition_says(seed: int) -> None:
    logits, seen, draws = random_rows(seed)
    expected = [
        expected_token(logits[row].tolist(), set(seen[row].nonzero()[:, 0].tolist()), draw)
        for row, draw in enumerate(draws)
    ]
    assert choose(logits, seen, table_of(draws)).tolist() == expected


def test_rows_do_not_see_each_other() -> None:
    logits, seen, draws = random_rows()
    together = choose(logits, seen, table_of(draws))
    measured = measure(logits, together)
    for row in range(NUM_ROWS):
        one = slice(row, row + 1)
        alone = choose(logits[one], seen[one], table_of(draws[one]))
        assert alone.tolist() == [together[row].item()]
        assert torch.equal(measure(logits[one], alone), measured[one])


def test_equal_logits_are_taken_by_token_id() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 2.0]])
    seen = torch.zeros(1, 4, dtype=torch.bool)

    def token_at(number: float, settings: SamplingSettings) -> int:
        return int(choose(logits, seen, table_of([Draw(settings, number)])).item())

    assert token_at(0.0, SamplingSettings(temperature=0.0)) == 1
    top_two = SamplingSettings(temperature=1.0, top_p=1.0, top_k=2)
    assert [token_at(number, top_two) for number in (0.0, 0.4, 0.6, 1.0 - 2**-53)] == [1, 1, 2, 2]
    everything = SamplingSettings(temperature=1.0, top_p=1.0)
    assert token_at(1.0 - 2**-53, everything) == 0


def test_draws_follow_the_distribution() -> None:
    """10,000 draws: frequencies within four standard deviations, excluded tokens never."""
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    settings = SamplingSettings(temperature=1.0, top_p=1.0)
    table = table_of([Draw(settings, uniform(1, index)) for index in range(10_000)])
    logits = probabilities.clamp(min=1e-30).log().expand(10_000, 4)
    counts = choose(logits, torch.zeros(10_000, 4, dtype=torch.bool), table).bincount(minlength=4)
    assert counts[1] == 0
    for count, probability in zip(counts.tolist(), probabilities.tolist(), strict=True):
        deviation = math.sqrt(10_000 * probability * (1 - probability))
        assert abs(count - 10_000 * probability) <= 4 * deviation


def test_the_smallest_temperature_is_greedy_and_not_nan() -> None:
    logits = torch.tensor([[-3.0, 7.0, 6.9]])
    seen = torch.zeros(1, 3, dtype=torch.bool)
    for temperature in (1e-6, 1e-40, 1e-300):
        draws = [Draw(SamplingSettings(temperature=temperature, top_p=1.0), 0.999)]
        assert choose(logits, seen, table_of(draws)).tolist() == [1]


def test_log_probability_and_rank_are_the_models_own() -> None:
    logits = random_rows()[0]
    token_ids = torch.arange(NUM_ROWS)
    measured = measure(logits, token_ids)
    expected = logits.double().log_softmax(-1)
    for row in range(NUM_ROWS):
        token_id, log_probability, rank = measured[row].tolist()
        assert token_id == row
        assert log_probability == pytest.approx(expected[row, row].item(), abs=1e-6)
        assert rank == 1 + int((logits[row] > logits[row, row]).sum())


def test_equal_tokens_share_the_best_rank() -> None:
    logits = torch.tensor([[5.0, 2.0, 2.0, 1.0]]).expand(4, 4)
    assert measure(logits, torch.arange(4))[:, 2].tolist() == [1.0, 2.0, 2.0, 4.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_damaged_row_is_named_and_harms_no_other(bad: float) -> None:
    logits, seen, draws = random_rows()
    before = choose(logits, seen, table_of(draws)).tolist()
    logits[3, 50] = bad
    logits[4] = bad
    drawn = choose(logits, seen, table_of(draws))
    assert all(0 <= token_id < VOCABULARY for token_id in drawn.tolist()), "may index a table"
    answered = measure(logits, drawn)[:, 0].tolist()
    assert answered == [NOT_FINITE if row in (3, 4) else before[row] for row in range(NUM_ROWS)]


def test_alternatives_are_the_likeliest_equal_ones_by_token_id() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [4.0, 3.0, 2.0, 1.0]])
    ids, log_probabilities = likeliest(logits, 3)
    assert ids.tolist() == [[1, 3, 2], [0, 1, 2]]
    expected = logits.double().log_softmax(-1).gather(1, ids)
    torch.testing.assert_close(log_probabilities, expected, atol=1e-6, rtol=0.0)
    assert likeliest(logits, 0)[0].shape == (2, 0) and likeliest(logits[:0], 3)[0].shape[0] == 0
    assert likeliest(logits, 10)[0].shape == (2, 4), "no more than the vocabulary"


def test_what_was_read_is_seen_up_to_a_rows_own_position() -> None:
    token_ids = torch.tensor([[4, 1, 4, 2, 0], [3, 3, 3, 3, 3]])
    seen = seen_tokens(token_ids, torch.tensor([2, 0]), 5)
    assert [row.nonzero()[:, 0].tolist() for row in seen] == [[1, 4], [3]]


@on_gpu
def test_draws_the_same_tokens_as_the_cpu() -> None:
    for seed in range(5):
        logits, seen, draws = random_rows(seed)
        expected = choose(logits, seen, table_of(draws)).tolist()
        received = choose(logits.cuda(), seen.cuda(), table_of(draws).cuda()).tolist()
        assert received == expected


@on_gpu
@pytest.mark.parametrize("num_rows", [1, 2, 64, 128, 200])
def test_a_row_draws_alike_in_batches_of_any_size(num_rows: int) -> None:
    """torch sorts and sums one row, some rows and many rows with different kernels."""
    numbers = torch.Generator().manual_seed(2)
    logits = (torch.randn(1, 32_771, generator=numbers) * 3.0).cuda().repeat(num_rows, 1)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    settings = SamplingSettings(temperature=1.3, top_p=0.97)
    table = table_of([Draw(settings, 0.77)] * num_rows).cuda()
    tokens = choose(logits, seen, table)
    measured = measure(logits, tokens)
    alone = choose(logits[:1], seen[:1], table[:1])
    assert torch.equal(tokens, alone.expand(num_rows))
    assert torch.equal(measured, measure(logits[:1], alone).expand(num_rows, 3))
