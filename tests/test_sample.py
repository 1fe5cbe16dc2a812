"""What a model in training writes: the playground's own draws, and nothing else of it touched."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.engine.engine import Engine
from stentor.engine.requests import GenerationRequest
from stentor.engine.stream import StopReason
from stentor.loading import Checkpoint, open_checkpoint_folder
from training.checkpoint import load_model
from training.sample import PASS_ROWS, SAMPLE_SETTINGS, SampledText, continue_prompts

PROMPTS = ("The river", "A small lamp burns in the", "Two and", "Naïve café", "😀", "grain")


@pytest.fixture(scope="module")
def checkpoint(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


@pytest.fixture
def model(checkpoint: Checkpoint) -> LlamaForCausalLM:
    return load_model(checkpoint)


def texts(
    model: LlamaForCausalLM, checkpoint: Checkpoint, *prompts: str
) -> list[tuple[str, StopReason]]:
    found = continue_prompts(model, checkpoint.tokenizer, checkpoint.end_tokens, prompts)
    return [(sampled.text, sampled.stop_reason) for sampled in found]


def test_it_is_what_the_playground_shows_for_these_weights(
    model: LlamaForCausalLM, checkpoint: Checkpoint
) -> None:
    """Same prompt, settings and seed in fp32: the promise of Compare, kept by the trainer."""
    engine = Engine(checkpoint, precision="fp32", num_slots=2)
    try:
        for prompt, (text, reason) in zip(PROMPTS, texts(model, checkpoint, *PROMPTS), strict=True):
            ids = tuple(checkpoint.tokenizer.encode(prompt).ids)
            stream = engine.submit(GenerationRequest(ids, SAMPLE_SETTINGS, "test"))
            assert stream.wait(60.0)
            shown = stream.snapshot()
            assert (text, reason) == (shown.text, shown.stop_reason), prompt
    finally:
        engine.close()


def test_another_prompt_changes_no_text(model: LlamaForCausalLM, checkpoint: Checkpoint) -> None:
    assert len(PROMPTS) > PASS_ROWS
    together = texts(model, checkpoint, *PROMPTS)
    assert together == [texts(model, checkpoint, prompt)[0] for prompt in PROMPTS]
    assert texts(model, checkpoint, *reversed(PROMPTS)) == together[::-1]
    assert len({text for text, _ in together}) == len(PROMPTS)
    assert texts(model, checkpoint) == []


def test_training_does_not_notice(model: LlamaForCausalLM, checkpoint: Checkpoint) -> None:
    """In training mode activation checkpointing drops the cache: tokens once followed the last
    one alone.
    """
    states = torch.random.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = texts(model, checkpoint, *PROMPTS)
    model.activation_checkpointing_enable()
    model.train()
    assert texts(model, checkpoint, *PROMPTS) == expected
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), states), "the run's own draws are its own"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


def test_a_text_ends_at_its_end_or_at_the_limit(
    model: LlamaForCausalLM, checkpoint: Checkpoint
) -> None:
    ((text, reason),) = texts(model, checkpoint, "The river")
    assert reason is StopReason.TOKEN_LIMIT
    tokenizer = checkpoint.tokenizer
    every = frozenset(range(checkpoint.shape.vocab_size))
    ended = continue_prompts(model, tokenizer, every, ("The river",))
    assert ended == [SampledText("", StopReason.END_OF_TEXT)] and text


def test_a_full_context_ends_a_text(
    model: LlamaForCausalLM, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "The river runs past the mill"
    model.config.max_position_embeddings = len(checkpoint.tokenizer.encode(prompt).ids) + 3
    ((text, reason),) = texts(model, checkpoint, prompt)
    assert text and reason is StopReason.CONTEXT_FULL
    model.config.max_position_embeddings -= 3
    assert texts(model, checkpoint, prompt) == [("", StopReason.CONTEXT_FULL)]
    monkeypatch.setattr(
        "training.sample.SAMPLE_SETTINGS", replace(SAMPLE_SETTINGS, max_new_tokens=1)
    )
    assert texts(model, checkpoint, "The")[0][1] is StopReason.TOKEN_LIMIT


def test_weights_that_are_no_numbers_write_nothing(
    model: LlamaForCausalLM, checkpoint: Checkpoint
) -> None:
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    assert texts(model, checkpoint, "The river") == [("", StopReason.FAILED)]


@pytest.mark.gpu
def test_on_a_gpu_another_prompt_changes_no_text(
    model: LlamaForCausalLM, checkpoint: Checkpoint
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.nn.Module.to(model, "cuda")
    together = texts(model, checkpoint, *PROMPTS)
    assert together == [texts(model, checkpoint, prompt)[0] for prompt in PROMPTS]
