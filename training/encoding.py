"""Token ids of documents: what the `tokenizers` library gives, several times faster.

A byte-level BPE encodes each word by itself, and words repeat. So a text is cut where no token can
lie across the cut, and every distinct piece is encoded by the library once and then looked up.
Where a cut is safe follows from the tokenizer's own description (see `piece_cutter`); one of
another kind gets whole documents, at the library's own speed. Knows no files and no windows.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Tokens = NDArray[np.unsignedinteger]

# A longer document is encoded in blocks of this size, so that a line of 50 MB takes no gigabytes.
BLOCK_CHARACTERS = 1_000_000
# Bounds of what is remembered: about 80 MB. Longer pieces hardly ever come again.
MAX_PIECES = 400_000
MAX_PIECE_CHARACTERS = 48
# White_Space of Unicode, which is what \s means to the library; Python's \s has four more.
SPACES = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# A word of ASCII letters before a space or plain punctuation, else everything up to the next space.
BYTE_LEVEL_PIECE = re.compile(
    rf' ?[A-Za-z]++(?![^{SPACES}.,;:!?"()])|[{SPACES}]*[^{SPACES}]+|[{SPACES}]+'
)
SENTENCE_PIECE = re.compile(r" *[^ ]+(?: +\Z)?")
BYTE_LEVEL_SPACE = re.compile(rf"[{SPACES}]+")
SENTENCE_SPACE = re.compile(" +")
METASPACE = "\u2581"


@dataclass(frozen=True)
class PieceCutter:
    """Where texts of one tokenizer may be cut.

    `piece` finds the pieces, `space` a run of what separates them. `drops_space`: the tokenizer
    puts a space before whatever it is given, so a piece after the first is given without its own.
    """

    piece: re.Pattern[str]
    space: re.Pattern[str]
    drops_space: bool


def piece_cutter(description: dict[str, Any]) -> PieceCutter | None:
    """Return how texts may be cut for a tokenizer (tokenizer.json), or None: not known to be safe.

    Byte-level: the pre-tokenizer starts a new word before a run of white space that follows a
    character of another kind, and between a letter and punctuation, whatever stands further left or
    right. Metaspace: nothing separates words but the merges, none of which joins a character to a
    space on its right.
    """
    model = description["model"]
    if model["type"] != "BPE" or model.get("dropout"):
        return None
    normalizer, splitter = description["normalizer"], description["pre_tokenizer"]
    if normalizer is None and _is_byte_level(splitter):
        return PieceCutter(BYTE_LEVEL_PIECE, BYTE_LEVEL_SPACE, drops_space=False)
    drops_space = normalizer is not None
    is_metaspace = _is_llama_normalizer(normalizer) if drops_space else _is_metaspace(splitter)
    if not is_metaspace or (drops_space and splitter is not None) or not _keeps_words(description):
        return None
    return PieceCutter(SENTENCE_PIECE, SENTENCE_SPACE, drops_space)


def _is_byte_level(splitter: dict[str, Any] | None) -> bool:
    """Tell whether words are split as by GPT-2, after single digits or runs of them if at all."""
    if splitter is None:
        return False
    parts = splitter["pretokenizers"] if splitter["type"] == "Sequence" else [splitter]
    *before, last = parts or [{"type": "none"}]
    return (
        last["type"] == "ByteLevel"
        and last["use_regex"]
        and not last["add_prefix_space"]
        and all(part["type"] == "Digits" for part in before)
    )


def _is_metaspace(splitter: dict[str, Any] | None) -> bool:
    return (
        splitter is not None
        and splitter["type"] == "Metaspace"
        and splitter["replacement"] == METASPACE
        and splitter.get("prepend_scheme", "always") in ("first", "always")
    )


def _is_llama_normalizer(normalizer: dict[str, Any]) -> bool:
    """Tell whether a space goes before the text and all spaces become U+2581."""
    return normalizer == {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": METASPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE},
        ],
    }


def _keeps_words(description: dict[str, Any]) -> bool:
    """Tell whether every merge leaves a space at the start of a word."""
    model = description["model"]
    across = re.compile(f"[^{METASPACE}]{METASPACE}")
    merges = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
    return (
        METASPACE in model["vocab"]
        and not model.get("ignore_merges")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and not any(METASPACE in token["content"] for token in description["added_tokens"])
        and not any(across.search("".join(merge)) for merge in merges)
    )


class DocumentEncoder:
    """Encodes documents, each with an end token after it. One per process."""

    def __init__(self, tokenizer: Tokenizer, end_token: int) -> None:
        text = tokenizer.to_str()
        description = json.loads(text)
        self._tokenizer = Tokenizer.from_str(text)  # limits are taken off a copy
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._cutter = piece_cutter(description)
        self._added = tuple(token["content"] for token in description["added_tokens"])
        firsts = "".join(sorted({re.escape(content[0]) for content in self._added if content}))
        self._may_hold_added = re.compile(f"[{firsts}]") if firsts else None
        self.dtype = token_dtype(tokenizer, end_token)
        self._end = np.array([end_token], self.dtype).tobytes()
        self._known = {"": self._end}  # token ids by piece, as bytes; no piece is empty

    def encode(self, documents: Sequence[str]) -> tuple[Tokens, NDArray[np.int64]]:
        """Return (all tokens, tokens of each document); a blank document has none, no end either.

        A document over BLOCK_CHARACTERS is cut between words, which changes no token. Only a
        million characters without a space are cut in mid-word, which may give a token more.
        """
        parts: list[bytes] = []
        lengths = np.zeros(len(documents), np.int64)
        waiting: list[tuple[int, list[str]]] = []
        held = 0

        def flush() -> None:
            for (place, _), part in zip(waiting, self._look_up(waiting), strict=True):
                parts.append(part)
                lengths[place] += len(part) // self.dtype.itemsize
            waiting.clear()

        for place, document in enumerate(documents):
            if not document.strip():
                continue
            for pieces, size in self._pieces(document):
                waiting.append((place, pieces))
                held += size
                if held >= BLOCK_CHARACTERS:
                    flush()
                    held = 0
            waiting.append((place, [""]))
        flush()
        return np.frombuffer(b"".join(parts), self.dtype), lengths

    def _pieces(self, document: str) -> Iterator[tuple[list[str], int]]:
        """Yield lists of texts to encode one by one, with the characters they stand for."""
        cutter = self._cutter
        is_whole = cutter is None or self._holds_added(document)
        for start, end in block_bounds(document, cutter.space if cutter else BYTE_LEVEL_SPACE):
            block = document[start:end] if start or end < len(document) else document
            pieces = [block] if is_whole or cutter is None else cutter.piece.findall(block)
            if cutter is not None and cutter.drops_space:
                # Only what follows a cut begins with the space that the cut was made before.
                first = 0 if start else 1
                pieces[first:] = [piece.removeprefix(" ") for piece in pieces[first:]]
            yield pieces, end - start

    def _holds_added(self, document: str) -> bool:
        """Tell whether a text spells a token that is looked for before words are split."""
        if self._may_hold_added is None or not self._may_hold_added.search(document):
            return False
        return any(content in document for content in self._added)

    def _look_up(self, waiting: list[tuple[int, list[str]]]) -> list[bytes]:
        """Return the tokens of each list of pieces."""
        known = self._known
        wanted: set[str] = set().union(*(pieces for _, pieces in waiting))
        missing = list(wanted.difference(known))
        if len(known) + len(missing) > MAX_PIECES:
            kept = {piece: known[piece] for piece in wanted.intersection(known)}
            known.clear()
            known.update(kept)  # the common ones, which are in every million characters
            known[""] = self._end
        encodings = self._tokenizer.encode_batch_fast(missing, add_special_tokens=False)
        for piece, encoding in zip(missing, encodings, strict=True):
            known[piece] = np.array(encoding.ids, self.dtype).tobytes()
        look_up: Callable[[str], bytes] = known.__getitem__
        found = [b"".join(map(look_up, pieces)) for _, pieces in waiting]
        for piece in missing:
            if len(piece) > MAX_PIECE_CHARACTERS:
                del known[piece]
        return found


def token_dtype(tokenizer: Tokenizer, end_token: int) -> np.dtype[Any]:
    """Return the smallest type that holds every token; ids may have gaps."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    return np.dtype(np.uint16 if max(largest, end_token) < 1 << 16 else np.uint32)


def block_bounds(text: str, space: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of blocks of at most BLOCK_CHARACTERS, cut before a run of `space`."""
    start = 0
    while len(text) - start > BLOCK_CHARACTERS:
        end = start + BLOCK_CHARACTERS
        cut = text.rfind(" ", start, end)
        while cut > start and space.match(text, cut - 1, cut):
            cut -= 1
        # Without a space in it the block ends in mid-word: memory has a bound, the text has none.
        end = cut if cut > start else end
        yield start, end
        start = end
    yield start, len(text)
