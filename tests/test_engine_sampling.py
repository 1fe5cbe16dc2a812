"""Sampling: agreement with transformers' processors, and random numbers that nobody can disturb."""

import math

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stentor.engine.sampling import (
    SamplingSettings,
    choose_token,
    draw,
    keep_top_k,
    keep_top_p,
    penalise_repetition,
    process_logits,
    uniform,
)
from stentor.errors import ModelError, OptionError
from stentor.knobs import check, from_json

SEEN = [3, 5, 5, 11]


def random_logits(seed: int, size: int = 50) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 3.0


def test_the_defaults_are_the_usage_example_of_the_card() -> None:
    settings = check(SamplingSettings())
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (0.5, 0.9, 80)
    assert (settings.top_k, settings.repetition_penalty) == (0, 1.0), "the other samplers are off"


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": 1001},
        {"repetition_penalty": 0.4},
        {"max_new_tokens": 0},
        {"seed": 2**32},
        {"seed": 0.5},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        from_json(SamplingSettings, values)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=1.0, top_p=1.0, top_k=7),
        SamplingSettings(temperature=1.7, top_p=0.3, repetition_penalty=1.3),
        SamplingSettings(temperature=0.8, top_p=0.75, top_k=12, repetition_penalty=0.7),
        SamplingSettings(temperature=1.0, top_p=0.01),
        SamplingSettings(temperature=2.0, top_p=1.0, top_k=1000, repetition_penalty=2.0),
    ],
)
def test_the_samplers_agree_with_transformers(settings: SamplingSettings, seed: int) -> None:
    logits = random_logits(seed)
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    seen, scores = torch.LongTensor([SEEN]), torch.FloatTensor(logits.unsqueeze(0))
    expected = processors(seen, scores)[0]
    received = process_logits(logits, SEEN, settings)
    torch.testing.assert_close(received, expected)


def test_samplers_leave_the_models_own_logits_alone() -> None:
    logits = random_logits(0)
    before = logits.clone()
    choose_token(logits, SEEN, SamplingSettings(repetition_penalty=1.5, top_k=3), index=0)
    assert torch.equal(logits, before)


def test_repetition_penalty_counts_a_token_once_and_pushes_both_signs_down() -> None:
    penalised = penalise_repetition(torch.tensor([2.0, -2.0, 2.0]), [0, 0, 1], 2.0)
    assert penalised.tolist() == [1.0, -4.0, 2.0]


def test_top_k_keeps_ties_and_more_than_the_vocabulary_keeps_all() -> None:
    assert keep_top_k(torch.tensor([1.0, 3.0, 3.0]), 1).tolist() == [-math.inf, 3.0, 3.0]
    assert keep_top_k(torch.tensor([1.0, 2.0]), 1000).tolist() == [1.0, 2.0]


def test_top_p_keeps_the_likeliest_token_however_small_the_mass() -> None:
    assert keep_top_p(torch.tensor([0.0, 4.0, 1.0]), 0.01).isfinite().tolist() == [
        False,
        True,
        False,
    ]


def test_uniform_numbers_depend_on_seed_and_index_alone() -> None:
    numbers = [uniform(seed, index) for seed in range(40) for index in range(50)]
    assert numbers == [uniform(seed, index) for seed in range(40) for index in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert all(0.0 <= number < 1.0 for number in numbers)
    # The mean of 2,000 uniform numbers has a standard deviation of 0.0065.
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    assert uniform(2**32 - 1, 511) != uniform(0, 511)


def test_draws_follow_the_distribution() -> None:
    """10,000 draws: frequencies within four standard deviations, excluded tokens never."""
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    logits = probabilities.log()
    counts = [0, 0, 0, 0]
    for index in range(10_000):
        counts[draw(logits, uniform(1, index))] += 1
    assert counts[1] == 0
    for count, probability in zip(counts, probabilities.tolist(), strict=True):
        deviation = math.sqrt(10_000 * probability * (1 - probability))
        assert abs(count - 10_000 * probability) <= 4 * deviation


def test_a_draw_at_either_end_stays_in_the_vocabulary() -> None:
    logits = torch.tensor([0.0, 1.0, -20.0])
    assert draw(logits, 0.0) == 1, "the likeliest comes first"
    assert draw(logits, 1.0 - 2**-53) == 2


def test_greedy_takes_the_largest_logit_and_needs_no_random_number() -> None:
    logits = torch.tensor([0.0, 5.0, 4.0])
    greedy = SamplingSettings(temperature=0.0, top_p=0.01, top_k=1)
    assert {choose_token(logits, [], greedy, index=index).token_id for index in range(20)} == {1}


def test_the_log_probability_is_the_models_own_before_any_sampler() -> None:
    logits = random_logits(3)
    settings = SamplingSettings(temperature=1.9, top_k=5, repetition_penalty=2.0, seed=9)
    choice = choose_token(logits, SEEN, settings, index=4)
    expected = logits.log_softmax(-1)[choice.token_id].item()
    assert choice.log_probability == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_named_not_sampled(bad: float) -> None:
    logits = torch.tensor([0.0, bad, 1.0])
    with pytest.raises(ModelError, match="NaN or infinite"):
        choose_token(logits, [], SamplingSettings(), index=0)
