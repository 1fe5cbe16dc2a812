"""Settings, the random numbers that nobody can disturb, and what the samplers mean when drawing."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stentor.engine.cpu_decoder import CpuDecoder
from stentor.engine.decoder import Answer, Draw, Piece
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.threads import ThreadBudget
from stentor.errors import OptionError
from stentor.knobs import check, from_json
from stentor.loading import open_checkpoint_folder

PROMPT = (3, 40, 40, 200, 11, 299)


def test_the_defaults_are_the_usage_example_of_the_card() -> None:
    settings = check(SamplingSettings())
    assert (settings.temperature, settings.top_p, settings.max_new_tokens) == (0.5, 0.9, 80)
    assert (settings.top_k, settings.min_p, settings.repetition_penalty) == (0, 0.0, 1.0), "off"


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_k": 1001},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.4},
        {"max_new_tokens": 0},
        {"seed": 2**32},
        {"seed": 0.5},
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        from_json(SamplingSettings, values)


def test_uniform_numbers_depend_on_seed_and_index_alone() -> None:
    numbers = [uniform(seed, index) for seed in range(40) for index in range(50)]
    assert numbers == [uniform(seed, index) for seed in range(40) for index in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert all(0.0 <= number < 1.0 for number in numbers)
    # The mean of 2,000 uniform numbers has a standard deviation of 0.0065.
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    assert uniform(2**32 - 1, 511) != uniform(0, 511)


@dataclass(frozen=True)
class Reference:
    """A decoder in fp32, and the logits that transformers computes after PROMPT."""

    decoder: CpuDecoder
    logits: torch.Tensor  # [vocabulary]

    def draw(self, settings: SamplingSettings, number: float) -> Answer:
        return self.decoder.step([Piece(0, 0, PROMPT, Draw(settings, number))])[0][0]


@pytest.fixture(scope="module")
def reference(tiny_model_folder: Path) -> Iterator[Reference]:
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    decoder = CpuDecoder(
        checkpoint, precision="fp32", num_slots=1, context_length=64, threads=ThreadBudget(1)
    )
    model = LlamaForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0, -1]
    yield Reference(decoder, logits)
    decoder.close()


def kept(logits: torch.Tensor, settings: SamplingSettings) -> tuple[list[int], list[float]]:
    """Return what transformers' samplers leave, likeliest first, and the cumulative mass."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    processors.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        processors.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1.0:
        processors.append(TopPLogitsWarper(settings.top_p))
    if settings.min_p:
        processors.append(MinPLogitsWarper(settings.min_p))
    scores = processors(torch.LongTensor([PROMPT]), logits.unsqueeze(0).clone())[0]
    ordered, order = scores.sort(descending=True, stable=True)
    num_kept = int(ordered.isfinite().sum())
    mass = ordered[:num_kept].softmax(-1, dtype=torch.float64).cumsum(-1)
    return order[:num_kept].tolist(), mass.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        SamplingSettings(),
        SamplingSettings(temperature=1.0, top_p=1.0),
        SamplingSettings(temperature=1.0, top_p=1.0, top_k=7),
        SamplingSettings(temperature=1.0, top_p=1.0, min_p=0.2),
        SamplingSettings(temperature=1.7, top_p=0.3, repetition_penalty=1.3),
        SamplingSettings(temperature=0.8, top_p=0.75, top_k=12, repetition_penalty=0.7),
        SamplingSettings(temperature=1.5, top_p=0.9, top_k=100, min_p=0.1, repetition_penalty=1.9),
        SamplingSettings(temperature=1.0, top_p=0.01),
        SamplingSettings(temperature=1.0, top_p=1.0, min_p=1.0),
        SamplingSettings(temperature=2.0, top_p=1.0, top_k=1000, repetition_penalty=2.0),
    ],
)
def test_a_draw_is_what_the_samplers_of_transformers_leave(
    reference: Reference, settings: SamplingSettings
) -> None:
    """The inverse of the cumulative mass, tried in the middle of what each token takes of it."""
    token_ids, mass = kept(reference.logits, settings)
    log_probabilities = reference.logits.double().log_softmax(-1)
    before = 0.0
    for token_id, after in list(zip(token_ids, mass, strict=True))[:40]:
        answer = reference.draw(settings, (before + after) / 2)
        assert answer.token_id == token_id
        expected = log_probabilities[token_id].item()
        assert answer.log_probability == pytest.approx(expected, abs=1e-4), "the model's own"
        before = after
    assert reference.draw(settings, 0.0).token_id == token_ids[0]
    assert reference.draw(settings, 1.0 - 2**-53).token_id == token_ids[-1]


def test_greedy_takes_the_largest_penalised_logit_and_no_random_number(
    reference: Reference,
) -> None:
    for penalty in (1.0, 2.0, 0.5):
        greedy = SamplingSettings(0.0, 0.01, 1, 1.0, penalty)
        penalised = SamplingSettings(1.0, 1.0, repetition_penalty=penalty)
        expected = kept(reference.logits, penalised)[0][0]
        assert {reference.draw(greedy, number / 7).token_id for number in range(7)} == {expected}
