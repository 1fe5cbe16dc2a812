"""How likely a text is to a model, token by token; and a token as JSON.

A text longer than the context is read in windows that know nothing of each other. Each begins with
the last token of the one before, so that every token but the first of the text is predicted, once.
The first has nothing before it. Knows no command and no page.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Encoding, Tokenizer

from stentor.engine.engine import Engine
from stentor.engine.stream import TokenRecord
from stentor.errors import PromptError
from stentor.store import LoadedModel, encode


@dataclass(frozen=True)
class ScoredText:
    """A text as a model predicts it: its first token, and a record of each of the others.

    `num_bytes`: those of the predicted tokens in UTF-8; see `num_bytes_after_first`.
    """

    first_token: int
    records: tuple[TokenRecord, ...]
    num_bytes: int

    @property
    def bits(self) -> float:
        """Return how surprising the predicted tokens are together."""
        return total_bits(record.log_probability for record in self.records)

    @property
    def bits_per_byte(self) -> float | None:
        """Return a measure that compares models of different tokenizers; None without a byte."""
        return self.bits / self.num_bytes if self.num_bytes else None


def score_text(
    loaded: LoadedModel, text: str, *, session: str, num_alternatives: int = 0
) -> ScoredText:
    """Return how likely each token of a text was to the model.

    Raises:
        PromptError: fewer than two tokens, too long, or no valid Unicode.
        OptionError: `num_alternatives` is out of its range.
        ModelError: the logits are no numbers, or the engine was closed.
        BusyError: too many requests are waiting.
    """
    encoding = encode(loaded, text)
    if len(encoding.ids) < 2:
        raise PromptError(
            f"The text has {len(encoding.ids)} tokens; each is predicted from those before it, so "
            "it takes two. Write a few words."
        )
    records = score_tokens(
        loaded.engine, encoding.ids, session=session, num_alternatives=num_alternatives
    )
    num_bytes = num_bytes_after_first(text, encoding, len(encoding.ids))
    return ScoredText(encoding.ids[0], records, num_bytes)


def score_tokens(
    engine: Engine, token_ids: Sequence[int], *, session: str, num_alternatives: int = 0
) -> tuple[TokenRecord, ...]:
    """Return a record of each token but the first, read in windows of the context length."""
    records: list[TokenRecord] = []
    stride = engine.context_length - 1  # a window's last token is the next one's first
    for start in range(0, len(token_ids) - 1, stride):
        window = tuple(token_ids[start : start + stride + 1])
        records += engine.score(window, session=session, num_alternatives=num_alternatives)
    return tuple(records)


def num_bytes_after_first(text: str, encoding: Encoding, num_tokens: int) -> int:
    """Return the UTF-8 bytes that the first `num_tokens` tokens but the very first stand for.

    A character in several tokens counts in the first of them; a special token stands for none.
    """
    _, start = encoding.offsets[0]
    end = max(end for _, end in encoding.offsets[:num_tokens])
    return len(text[start:end].encode("utf-8"))


def total_bits(log_probabilities: Iterable[float]) -> float:
    """Return natural log-probabilities, summed, as bits."""
    return -math.fsum(log_probabilities) / math.log(2)


def token_json(record: TokenRecord, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a token and its alternatives, each alternative with its text."""
    alternatives = [
        {
            "token_id": item.token_id,
            "text": token_text(tokenizer, item.token_id),
            "log_probability": item.log_probability,
        }
        for item in record.alternatives
    ]
    return {**record._asdict(), "alternatives": alternatives}


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the text of a token on its own; bytes that are no character come out as U+FFFD."""
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    return text
