"""Scores of a continuation: pure functions of (continuation, prompt), named in SCORERS.

A score says one narrow thing and its note says which. Nothing here knows models, files or settings,
and nothing that a model wrote is ever executed: Python source is parsed, that is all.
"""

import ast
import codeop
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

# An answer counts only where a reader would look for it: in the first words.
ANSWER_CHARACTERS = 40
# Fewer words than this hold too few trigrams for a share of them to mean anything.
MIN_WORDS = 12
LOOP_TIMES = 3
MAX_LOOP_WORDS = 12
# The escape is the typographer's apostrophe.
WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")
# Where an answer may not begin or end: `eight` is not in `twenty-eight`, `2` not in `2.5`, `1/2`,
# `-2` or `x^2`, `2x` not in `2x^2`.
ANSWER_START = r"(?<![\w^])(?<!\w-)(?<!\d[.,/])"
NUMBER_START = r"(?<!-)"
ANSWER_END = r"(?!\w)(?!-\w)(?![.,/]\d)(?!\s?(?:\^|\*\*))"


@dataclass(frozen=True)
class Score:
    """`value` from 0 to 1, or None where nothing can be said; `note` says what was judged."""

    value: float | None
    note: str


class ScoredPrompt(Protocol):
    """What a scorer may know of a prompt."""

    @property
    def text(self) -> str:
        """Return the fragment that was continued."""

    @property
    def expected(self) -> tuple[str, ...]:
        """Return the answers of which one must come; may be empty."""


def score_expected(continuation: str, prompt: ScoredPrompt) -> Score:
    """Give 1 where an expected answer stands, as a word of its own, in the first 40 characters."""
    if not prompt.expected:
        return Score(None, "This prompt has no expected answer.")
    # One character of the prompt goes in front: `is` + `8` reads `is8`, which is no answer.
    text = prompt.text[-1:] + continuation
    limit = ANSWER_CHARACTERS + len(prompt.text[-1:])
    for answer in prompt.expected:
        start = ANSWER_START + (NUMBER_START if answer[:1].isdigit() else "")
        found = re.search(start + re.escape(answer) + ANSWER_END, text, re.IGNORECASE)
        if found and found.end() <= limit:
            return Score(1.0, f"Contains {answer!r} in its first {ANSWER_CHARACTERS} characters.")
    known = " or ".join(repr(answer) for answer in prompt.expected)
    return Score(0.0, f"No {known} in its first {ANSWER_CHARACTERS} characters.")


def score_python(continuation: str, prompt: ScoredPrompt) -> Score:
    """Give 1 where prompt + continuation, cut back to its last complete lines, parses.

    The last line may be left out because the token limit may have broken it off; further lines only
    while they belong to a statement that was not finished. At least one line of the continuation
    must remain. Whether the source does what it should is not judged.
    """
    if not continuation.strip():
        return Score(0.0, "The continuation is empty.")
    kept = continuation.rstrip().split("\n")
    num_lines = len(kept)
    while kept and any(line.strip() for line in kept):
        source = prompt.text + "\n".join(kept) + "\n"
        if _parses(source):
            left_out = num_lines - len(kept)
            cut = f" without its last {left_out} unfinished line(s)" if left_out else ""
            return Score(1.0, f"Parses as Python{cut}; it was not run.")
        if len(kept) < num_lines and not _is_unfinished(source):
            break
        kept.pop()
    return Score(0.0, "Does not parse as Python, even without its last line.")


def _parses(source: str) -> bool:
    try:
        ast.parse(source, filename="<generated>")
    # ValueError: a null byte; the other two: nesting deeper than the parser follows.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _is_unfinished(source: str) -> bool:
    """Tell whether more lines could still make this valid (an open bracket, an empty block)."""
    try:
        return codeop.compile_command(source, "<generated>", "exec") is None
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return False


def score_fluency(continuation: str, prompt: ScoredPrompt) -> Score:
    """Give the share of word trigrams that are distinct: how little the text repeats itself.

    For base-model prose, whose commonest failure is a loop. It judges neither sense nor truth.
    """
    words = WORD.findall(continuation.lower())
    if len(words) < MIN_WORDS:
        return Score(None, f"Only {len(words)} words; repetition is judged from {MIN_WORDS} on.")
    share = distinct_share(words, 3)
    note = f"{share:.0%} of its word trigrams are distinct; neither sense nor truth is judged."
    loop = repeated_ending(words)
    if loop:
        phrase, times = loop
        note += f" Ends in a loop: {' '.join(phrase)!r} {times} times."
    return Score(share, note)


def distinct_share(words: Sequence[str], size: int) -> float:
    """Return distinct n-grams / all n-grams of `size` words; 1.0 where there are none.

    Source: distinct-n of Li et al. 2016, A Diversity-Promoting Objective Function (1510.03055).
    """
    grams = [tuple(words[index : index + size]) for index in range(len(words) - size + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repeated_ending(words: Sequence[str]) -> tuple[tuple[str, ...], int] | None:
    """Return the shortest phrase that fills the end three times or more, and how often; or None."""
    for size in range(1, min(MAX_LOOP_WORDS, len(words) // LOOP_TIMES) + 1):
        phrase = tuple(words[len(words) - size :])
        times = 1
        while tuple(words[len(words) - (times + 1) * size : len(words) - times * size]) == phrase:
            times += 1
        if times >= LOOP_TIMES:
            return phrase, times
    return None


Scorer = Callable[[str, ScoredPrompt], Score]
SCORERS: dict[str, Scorer] = {
    "expected": score_expected,
    "python": score_python,
    "fluency": score_fluency,
}
