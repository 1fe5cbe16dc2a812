"""Encoding by pieces gives what the library gives for the whole text, on the oddest texts."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from training import encoding
from training.encoding import DocumentEncoder, piece_cutter, token_dtype
from training.generated_text import generate_documents

END = 0
# All white space there is, what only looks like it, letters, marks, digits, and added tokens.
SNIPPETS = [
    *(" ", " ", "  ", "\n", "\n\n", "\t", "\r\n", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f"),
    *("\x85", "\xa0", "\u1680", "\u180e", "\u2003", "\u200a", "\u200b", "\u2028", "\u2029"),
    *("\u202f", "\u205f", "\u3000", "\ufeff", "\x00", "a", "mill", "The", "It", "'s", "'t", "'"),
    *('"', ".", ",", "!", "?", ":", ";", "(", ")", "-", "_", "1", "23", "é", "ß", "日本", "😀"),
    *("\u0301", "Ⅷ", "²", "ﬀ", "<|end|>", "<", "|", "\u2581", "the", "river "),
]


def byte_level(*before: pre_tokenizers.PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, last]) if before else last
    return trained(tokenizer, pre_tokenizers.ByteLevel.alphabet())


def metaspace(prepend_scheme: str) -> Tokenizer:
    """Return a tokenizer as of Llama 2: no words, only spaces at the start of a token."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=True)
    trained(tokenizer, ["\u2581"], "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=False)
    return tokenizer


def llama_normalizer() -> Tokenizer:
    """Return the same, with the space put in front by a normaliser, as older files have it."""
    tokenizer = metaspace("always")
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    return tokenizer


def trained(tokenizer: Tokenizer, alphabet: list[str], *special: str) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=600 + len(special),
        special_tokens=["<|end|>", *special],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    texts = generate_documents("narrative")
    tokenizer.train_from_iterator((next(texts) for _ in range(300)), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZERS = {
    "byte-level": byte_level,
    "digits, byte-level": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True)),
    "metaspace, first": lambda: metaspace("first"),
    "metaspace, always": lambda: metaspace("always"),
    "llama normaliser": llama_normalizer,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return TOKENIZERS[request.param]()


def is_cut(tokenizer: Tokenizer) -> bool:
    return piece_cutter(json.loads(tokenizer.to_str())) is not None


def expected(tokenizer: Tokenizer, document: str) -> list[int]:
    """Return what the library gives for the whole document, and an end."""
    if not document.strip():
        return []
    return [*tokenizer.encode(document, add_special_tokens=False).ids, END]


def encoded(tokenizer: Tokenizer, documents: list[str]) -> list[list[int]]:
    tokens, lengths = DocumentEncoder(tokenizer, END).encode(documents)
    assert int(lengths.sum()) == len(tokens)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]


def odd_documents(count: int) -> list[str]:
    pick = random.Random(5)
    return ["".join(pick.choices(SNIPPETS, k=pick.randrange(1, 14))) for _ in range(count)]


def test_odd_texts_are_encoded_as_by_the_library(tokenizer: Tokenizer) -> None:
    assert is_cut(tokenizer)
    documents = odd_documents(6000)
    for document, found in zip(documents, encoded(tokenizer, documents), strict=True):
        assert found == expected(tokenizer, document), repr(document)


def test_a_long_line_is_encoded_in_blocks_as_if_it_was_whole(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of 50 MB at once takes gigabytes; cut at the wrong place it gets other tokens."""
    pick = random.Random(6)
    line = "".join(pick.choices([*SNIPPETS, " the river", " mill", " and"], k=3000))
    plain = line.replace("<|end|>", "")
    for block in (200, 777, 5000):
        monkeypatch.setattr(encoding, "BLOCK_CHARACTERS", block)
        assert encoded(tokenizer, [plain]) == [expected(tokenizer, plain)]
        if tokenizer.normalizer is None:  # else a cut just before a spelt-out token loses a space
            assert encoded(tokenizer, [line]) == [expected(tokenizer, line)]


def test_a_line_without_any_space_is_cut_all_the_same(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "BLOCK_CHARACTERS", 1000)
    found = encoded(tokenizer, ["日本" * 5000])[0]
    whole = expected(tokenizer, "日本" * 5000)
    assert abs(len(found) - len(whole)) <= 2 * 10


def test_what_is_remembered_is_bounded_and_changes_nothing(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "MAX_PIECES", 40)
    monkeypatch.setattr(encoding, "MAX_PIECE_CHARACTERS", 5)
    encoder = DocumentEncoder(tokenizer, END)
    for _ in range(2):
        for document in odd_documents(60):
            tokens, _ = encoder.encode([document])
            assert tokens.tolist() == expected(tokenizer, document)
            assert len(encoder._known) < 80
            assert max(map(len, encoder._known)) <= 5


def test_limits_in_the_file_do_not_cut_documents_short() -> None:
    tokenizer = byte_level()
    text = "The river runs past the mill. " * 20
    whole = expected(tokenizer, text)
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=1000)
    assert encoded(tokenizer, [text]) == [whole]


def test_tokens_take_four_bytes_where_the_largest_needs_them() -> None:
    """Ids with gaps once ended in an OverflowError: only their number was looked at."""
    description = json.loads(byte_level().to_str())
    vocabulary = description["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = (1 << 16) - 1
    largest = Tokenizer.from_str(json.dumps(description))
    assert token_dtype(largest, END) == np.uint16
    assert token_dtype(largest, 1 << 16) == np.uint32
    assert DocumentEncoder(largest, 1 << 16).encode(["a"])[0][-1] == 1 << 16
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 1 << 16
    assert token_dtype(Tokenizer.from_str(json.dumps(description)), END) == np.uint32


def test_blank_documents_have_no_tokens_and_keep_their_place() -> None:
    assert [bool(part) for part in encoded(byte_level(), ["", "a", " \n", "b"])] == [0, 1, 0, 1]


def test_tokenizers_that_may_not_be_cut_get_the_whole_text() -> None:
    lower = byte_level()
    lower.normalizer = normalizers.Lowercase()
    prefix = byte_level()
    prefix.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    whole = byte_level()
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bare = byte_level()
    bare.pre_tokenizer = None
    crossing = metaspace("first")
    description = json.loads(crossing.to_str())
    left, right = "e", "\u2581"
    description["model"]["vocab"][left + right] = len(description["model"]["vocab"])
    description["model"]["merges"].append([left, right])
    crossing = Tokenizer.from_str(json.dumps(description))
    added = metaspace("first")
    added.add_tokens([AddedToken("\u2581the")])
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for tokenizer in (lower, prefix, whole, bare, crossing, added, words):
        assert not is_cut(tokenizer)
        documents = odd_documents(300)
        for document, found in zip(documents, encoded(tokenizer, documents), strict=True):
            assert found == expected(tokenizer, document), repr(document)


def test_both_tokenizers_in_the_project_are_cut(tiny_model_folder: Path) -> None:
    """Nobody would notice but by the clock."""
    models_folder = Path(__file__).parent.parent / "assets" / "models"
    for folder in (tiny_model_folder, *models_folder.iterdir()):
        if (folder / "tokenizer.json").is_file():
            assert is_cut(Tokenizer.from_file(str(folder / "tokenizer.json"))), folder
