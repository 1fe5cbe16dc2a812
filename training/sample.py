"""What a model in training writes after fixed prompts: the same draws as the playground's.

The samplers and the random numbers are the engine's (stentor/engine/sampling.py), so Compare shows
the same text for a checkpoint in fp32, up to rounding. No random generator is used, and the model
is left as it was found. Knows no run.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

from stentor.engine.decoder import Draw
from stentor.engine.sampling import SamplingSettings, uniform
from stentor.engine.stream import StopReason
from stentor.engine.text import IncrementalText
from stentor.engine.torch_sampling import choose, draw_columns

# The card's usage example, and two sentences: enough to see what was learnt, little beside a
# checkpoint. The same for every prompt and run, so that a text differs by its weights alone.
SAMPLE_SETTINGS = SamplingSettings(temperature=0.5, top_p=0.9, max_new_tokens=60, seed=0)
# Rows of every pass, filled up with rows of nothing: how a product is summed may depend on its
# shape, and another prompt must not change a text.
PASS_ROWS = 4
# What weights are kept and generated in; autocast is for training steps.
SAMPLE_PRECISION = "fp32"


@dataclass(frozen=True)
class SampledText:
    """What followed a prompt, and why it ended there."""

    text: str
    stop_reason: StopReason


class _Row:
    """A prompt and what was drawn after it. Reads one token a pass, from the prompt's first on."""

    def __init__(self, tokenizer: Tokenizer, prompt: str, context_length: int) -> None:
        self.token_ids: list[int] = tokenizer.encode(prompt).ids
        self.num_prompt_tokens = len(self.token_ids)
        self.text = ""
        self.stop_reason = StopReason.CONTEXT_FULL if self._is_full(context_length) else None
        self._context_length = context_length
        self._pieces = IncrementalText(tokenizer, self.token_ids)

    def _is_full(self, context_length: int) -> bool:
        return not 0 < len(self.token_ids) < context_length

    def draws_after(self, position: int) -> bool:
        """Tell whether the token at a position is the last, and another is to follow it."""
        return self.stop_reason is None and position == len(self.token_ids) - 1

    def token_at(self, position: int) -> int:
        """Return the token to read at a position; a row that has ended reads anything."""
        return self.token_ids[position] if position < len(self.token_ids) else 0

    def draw(self) -> Draw:
        """Return what the next token is drawn by."""
        index = len(self.token_ids) - self.num_prompt_tokens
        return Draw(SAMPLE_SETTINGS, uniform(SAMPLE_SETTINGS.seed, index))

    def take(self, token_id: int, end_tokens: Collection[int]) -> None:
        """Add a token that was drawn, as the engine does."""
        if token_id in end_tokens:
            self.stop_reason = StopReason.END_OF_TEXT
            return
        self.token_ids.append(token_id)
        self.text += self._pieces.add(token_id)
        if len(self.token_ids) - self.num_prompt_tokens >= SAMPLE_SETTINGS.max_new_tokens:
            self.stop_reason = StopReason.TOKEN_LIMIT
        elif self._is_full(self._context_length):
            self.stop_reason = StopReason.CONTEXT_FULL


def continue_prompts(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    end_tokens: Collection[int],
    prompts: Sequence[str],
) -> list[SampledText]:
    """Return what the model writes after each prompt, by SAMPLE_SETTINGS; a prompt is on its own.

    A text ends early at an end token, where the context is full (at once, where the prompt fills
    it), and as `failed` where the model answers with NaN or infinite logits.
    """
    length = model.config.max_position_embeddings
    rows = [_Row(tokenizer, prompt, length) for prompt in prompts]
    was_training = model.training
    model.train(False)
    try:
        with torch.inference_mode():
            for first in range(0, len(rows), PASS_ROWS):
                _continue_rows(model, rows[first : first + PASS_ROWS], end_tokens)
    finally:
        model.train(was_training)
    return [SampledText(row.text, row.stop_reason or StopReason.FAILED) for row in rows]


def _continue_rows(model: LlamaForCausalLM, rows: list[_Row], end_tokens: Collection[int]) -> None:
    """Read all rows a token at a time, at the same position each: none waits and none is masked."""
    cache, position = DynamicCache(), 0
    while any(row.stop_reason is None for row in rows):
        read = [row.token_at(position) for row in rows] + [0] * (PASS_ROWS - len(rows))
        inputs = torch.tensor(read, device=model.device).unsqueeze(1)
        logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits[:, -1]
        drawing = [place for place, row in enumerate(rows) if row.draws_after(position)]
        if drawing:
            found = _draw(logits[drawing].float(), [rows[place].draw() for place in drawing])
            for place, token_id in zip(drawing, found, strict=True):
                if token_id is None:
                    rows[place].stop_reason = StopReason.FAILED
                else:
                    rows[place].take(token_id, end_tokens)
        position += 1


def _draw(logits: Tensor, draws: list[Draw]) -> list[int | None]:
    """Return the token drawn for each row of logits (rows, vocabulary); None: not finite."""
    unseen = torch.zeros_like(logits, dtype=torch.bool)  # the repetition penalty is off
    columns = [draw_columns(draw) for draw in draws]
    table = torch.tensor(columns, dtype=torch.float64, device=logits.device)
    token_ids = choose(logits, unseen, table).tolist()
    is_finite = logits.isfinite().all(dim=-1).tolist()
    return [token if sound else None for token, sound in zip(token_ids, is_finite, strict=True)]
