"""From logits to one token: settings, pure functions in a fixed order, and the random numbers.

Order: repetition penalty, temperature, top-k, top-p, then one draw by inverse CDF. The uniform
number of a draw depends on the seed and the index of the generated token alone, so no other request
can change it, and continuing after n tokens draws what one longer generation would have drawn.
Nothing here knows models, threads or text.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from stentor.errors import ModelError
from stentor.knobs import knob


@dataclass(frozen=True)
class SamplingSettings:
    """What a user sets; the defaults are the usage example of the model card."""

    temperature: float = knob(
        0.5, low=0.0, high=2.0, step=0.05, help="Higher is more surprising; 0 is greedy"
    )
    top_p: float = knob(
        0.9, low=0.01, high=1.0, step=0.01, help="Keep the likeliest tokens of this total mass"
    )
    top_k: int = knob(0, low=0, high=1000, step=1, help="Keep this many likeliest tokens; 0 is off")
    repetition_penalty: float = knob(
        1.0, low=0.5, high=2.0, step=0.05, help="Above 1 avoids tokens already seen; 1 is off"
    )
    max_new_tokens: int = knob(80, low=1, high=512, step=1, help="Most tokens to generate")
    seed: int = knob(
        0, low=0, high=2**32 - 1, step=1, help="Same seed, settings and prompt: same text"
    )


class Choice(NamedTuple):
    """One chosen token and its log-probability under the model, before any sampler."""

    token_id: int
    log_probability: float


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) for the generated token `index` (counted from 0) of `seed`."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53  # the 53 bits of a double


def choose_token(
    logits: Tensor, seen: Sequence[int], settings: SamplingSettings, *, index: int
) -> Choice:
    """Choose the next token from `logits` [vocabulary].

    `seen` is the prompt and everything generated so far; `index` counts generated tokens from 0.

    Raises:
        ModelError: a logit is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model answered with NaN or infinite logits: its weights are damaged or its "
            "training diverged. Choose another checkpoint."
        )
    processed = process_logits(logits, seen, settings)
    if settings.temperature == 0.0:
        token_id = int(processed.argmax())
    else:
        token_id = draw(processed, uniform(settings.seed, index))
    precise = logits.double()
    return Choice(token_id, float(precise[token_id] - precise.logsumexp(dim=-1)))


def process_logits(logits: Tensor, seen: Sequence[int], settings: SamplingSettings) -> Tensor:
    """Apply the samplers in order; tokens ruled out become -inf. Greedy needs the first alone."""
    if settings.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, settings.repetition_penalty)
    if settings.temperature == 0.0:
        return logits
    logits = logits / settings.temperature
    if settings.top_k > 0:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p < 1.0:
        logits = keep_top_p(logits, settings.top_p)
    return logits


def penalise_repetition(logits: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Divide positive and multiply negative logits of seen tokens (arXiv 1909.05858, 4.1)."""
    ids = torch.tensor(sorted(set(seen)), dtype=torch.long)
    scores = logits[ids]
    penalised = logits.clone()
    penalised[ids] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return penalised


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Keep the `top_k` largest logits, and any that equal the smallest of them."""
    smallest_kept = logits.topk(min(top_k, logits.numel())).values[-1]
    return logits.masked_fill(logits < smallest_kept, -torch.inf)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep the fewest likeliest tokens whose mass reaches `top_p`, at least one."""
    ordered, order = logits.sort(descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1, dtype=torch.float64)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    return logits.index_fill(0, order[mass_before >= top_p], -torch.inf)


def draw(logits: Tensor, number: float) -> int:
    """Return the token at `number` in [0, 1) of the cumulative distribution, likeliest first.

    Likeliest first, so that a small change of the logits seldom changes what is drawn.
    """
    candidates = logits.isfinite().nonzero().squeeze(1)
    ordered, order = logits[candidates].sort(descending=True, stable=True)
    cumulative = ordered.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    place = int((cumulative <= number * cumulative[-1]).sum())
    return int(candidates[order[min(place, len(order) - 1)]])
