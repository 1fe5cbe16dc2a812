"""Tokens to text, one token at a time: never half a UTF-8 character, leading spaces kept.

A lone token cannot be decoded: sentencepiece-style tokenizers drop the space in front of the first
token, and one character may need several tokens. So a small window is decoded with and without the
new token, and the difference is the new text. A character whose last byte never comes is left out:
the text of all calls together is decode(prompt + generated) less decode(prompt).
"""

from collections.abc import Sequence

from tokenizers import Tokenizer

REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or not yet


class IncrementalText:
    """Turns the tokens generated after a prompt into text as they come."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt_ids)
        self._shown = self._decode(self._window)
        # How many tokens at the start of the window end with a whole character, as far as is known.
        self._num_whole = 0 if self._shown.endswith(REPLACEMENT) else len(self._window)

    def add(self, token_id: int) -> str:
        """Return the text that this token completes; empty while a character is incomplete."""
        self._window.append(token_id)
        whole = self._decode(self._window)
        complete = whole.rstrip(REPLACEMENT)
        if not complete.startswith(self._shown):
            # The prompt ended within a character (a continuation) that this token may complete.
            self._shown = self._shown.rstrip(REPLACEMENT)
        fresh = complete[len(self._shown) :]
        if complete == whole:
            self._shrink(whole)
        elif fresh:
            self._shown = complete
        return fresh

    def _shrink(self, whole: str) -> None:
        """Keep only the tokens since the last whole character, so that a step stays cheap.

        They are context enough for the next token, unless they have no text (special tokens).
        """
        fresh = self._window[self._num_whole :]
        fresh_text = self._decode(fresh)
        if fresh_text:
            self._window, self._shown = fresh, fresh_text
        else:
            self._shown = whole
        self._num_whole = len(self._window)

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return text
