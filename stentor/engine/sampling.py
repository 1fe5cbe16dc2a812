"""From logits to one token: what a user sets, what it means on every device, the random numbers.

The decoders do this, each in its own kernels, always in this order:

1. repetition penalty: logits of tokens in the prompt or in what was generated are divided by it
   where positive and multiplied where negative, once each (arXiv 1909.05858, section 4.1);
2. temperature: logits are divided by it; at 0 the largest penalised logit wins (of equal ones that
   with the lowest token id) and nothing below applies;
3. the tokens are sorted by that logit, the largest first, equal ones by token id. top-k, top-p and
   min-p each keep the beginning of this order: the first k; the fewest whose mass reaches top-p of
   the mass that top-k kept, at least one; those whose probability is at least min-p times the
   largest one (arXiv 2407.01082);
4. one draw by inverse CDF over what is left, likeliest first, so that a small change of the logits
   seldom changes what is drawn.

The uniform number of a draw depends on the seed and the index of the generated token alone, so no
other request can change it, and continuing after n tokens draws what one longer generation would
have drawn. Nothing here knows models, threads or text.
"""

import hashlib
import struct
from dataclasses import dataclass

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
    min_p: float = knob(
        0.0,
        low=0.0,
        high=1.0,
        step=0.01,
        help="Drop tokens less likely than this share of the likeliest; 0 is off",
    )
    repetition_penalty: float = knob(
        1.0, low=0.5, high=2.0, step=0.05, help="Above 1 avoids tokens already seen; 1 is off"
    )
    max_new_tokens: int = knob(80, low=1, high=512, step=1, help="Most tokens to generate")
    seed: int = knob(
        0, low=0, high=2**32 - 1, step=1, help="Same seed, settings and prompt: same text"
    )


def uniform(seed: int, index: int) -> float:
    """Return the number in [0, 1) for the generated token `index` (counted from 0) of `seed`."""
    digest = hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 11) * 2.0**-53  # the 53 bits of a double
