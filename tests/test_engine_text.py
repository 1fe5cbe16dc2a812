"""Incremental text: byte-level BPE and sentencepiece-style tokenizers, whole characters only."""

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from stentor.engine.text import REPLACEMENT, IncrementalText

TEXT = "The miller's café — “naïve” 😀👩‍👩‍👧 says 日本語, twice  two   spaces.\n\tEnd."


@pytest.fixture(scope="module")
def byte_level(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def sentencepiece_style() -> Tokenizer:
    """Return what Llama and Mistral tokenizers are: spaces as ▁, bytes for unknown characters."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [*"▁abcdefghijklmnopqrstuvwxyzTE.,'é", "▁T", "▁s", "ay"]
    merges = [("▁", "T"), ("▁", "s"), ("a", "y")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.add_special_tokens(
        [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return tokenizer


def token(tokenizer: Tokenizer, piece: str) -> int:
    number = tokenizer.token_to_id(piece)
    assert number is not None
    return number


def whole(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    return str(tokenizer.decode(token_ids, skip_special_tokens=True))


def pieces_of(tokenizer: Tokenizer, prompt_ids: list[int], token_ids: list[int]) -> list[str]:
    text = IncrementalText(tokenizer, prompt_ids)
    return [text.add(token_id) for token_id in token_ids]


@pytest.fixture(params=["byte_level", "sentencepiece_style"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    chosen: Tokenizer = request.getfixturevalue(request.param)
    return chosen


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 13, 21, 34])
def test_the_pieces_are_the_decoded_whole_less_the_prompt(tokenizer: Tokenizer, cut: int) -> None:
    ids = list(tokenizer.encode(TEXT, add_special_tokens=False).ids)
    prompt_ids, generated = ids[:cut], ids[cut:]
    pieces = pieces_of(tokenizer, prompt_ids, generated)
    prompt = whole(tokenizer, prompt_ids).rstrip(REPLACEMENT)
    assert prompt + "".join(pieces) == whole(tokenizer, ids) == TEXT
    assert REPLACEMENT not in "".join(pieces)


def test_no_piece_holds_half_a_character(tokenizer: Tokenizer) -> None:
    prompt_ids = list(tokenizer.encode("The", add_special_tokens=False).ids)
    generated = list(tokenizer.encode("The 😀😀", add_special_tokens=False).ids)[len(prompt_ids) :]
    pieces = [piece for piece in pieces_of(tokenizer, prompt_ids, generated) if piece]
    assert "".join(pieces) == " 😀😀"
    assert len(generated) > len(pieces), "an emoji takes several tokens and comes in one piece"


def test_leading_spaces_are_kept(sentencepiece_style: Tokenizer) -> None:
    """A token decoded alone loses its space ('says' for ' says'): words would run together."""
    tokenizer = sentencepiece_style
    prompt_ids = list(tokenizer.encode("The cat").ids)
    generated = [token(tokenizer, "▁s"), token(tokenizer, "ay")]
    assert whole(tokenizer, generated) == "say"
    assert pieces_of(tokenizer, prompt_ids, generated) == [" s", "ay"]


def test_special_tokens_have_no_text_and_do_not_eat_the_space_after_them(
    sentencepiece_style: Tokenizer,
) -> None:
    tokenizer = sentencepiece_style
    special = token(tokenizer, "</s>")
    prompt_ids = [
        token(tokenizer, "<s>"),
        *tokenizer.encode("The", add_special_tokens=False).ids,
    ]
    generated = [
        special,
        token(tokenizer, "▁s"),
        special,
        special,
        token(tokenizer, "▁T"),
    ]
    assert pieces_of(tokenizer, prompt_ids, generated) == ["", " s", "", "", " T"]


def test_random_bytes_give_the_decoded_whole(byte_level: Tokenizer) -> None:
    """Small models generate broken UTF-8; only an unfinished character at the end is left out."""
    generator = random.Random(5)
    for _ in range(200):
        prompt_ids = list(byte_level.encode("The mill").ids)
        generated = [generator.randrange(320) for _ in range(generator.randrange(1, 40))]
        pieces = pieces_of(byte_level, prompt_ids, generated)
        expected = whole(byte_level, prompt_ids + generated).removeprefix("The mill")
        assert "".join(pieces) == expected.rstrip(REPLACEMENT)


def test_what_stands_before_an_unfinished_character_is_not_held_back(byte_level: Tokenizer) -> None:
    """The token ' â€' is a space and two bytes of a dash; a text ending there lost the space."""
    first, second = byte_level.encode(" —").ids[:1], byte_level.encode(" —").ids[1:]
    prompt_ids = list(byte_level.encode("The mill").ids)
    assert pieces_of(byte_level, prompt_ids, [*first, *second])[:2] == [" ", "—"]


def test_random_tokens_never_break_a_sentencepiece_stream(sentencepiece_style: Tokenizer) -> None:
    """A broken run of byte tokens is decoded anew as a whole: only valid ones can be compared."""
    generator = random.Random(6)
    prompt_ids = list(sentencepiece_style.encode("The").ids)
    size = sentencepiece_style.get_vocab_size()
    for _ in range(200):
        generated = [generator.randrange(size) for _ in range(20)]
        pieces = pieces_of(sentencepiece_style, prompt_ids, generated)
        text = whole(sentencepiece_style, prompt_ids + generated)
        if REPLACEMENT not in text:
            assert "The" + "".join(pieces) == text


def test_a_continuation_completes_the_character_that_the_token_limit_cut(
    byte_level: Tokenizer,
) -> None:
    """Generated 'caf' + first byte of é, then Continue: the page must read 'café', not 'caf�é'."""
    ids = list(byte_level.encode("The river caf\u0113").ids)
    assert whole(byte_level, ids[:-1]).endswith(REPLACEMENT)
    prompt_ids = list(byte_level.encode("The river").ids)
    first = "".join(pieces_of(byte_level, prompt_ids, ids[len(prompt_ids) : -1]))
    second = "".join(pieces_of(byte_level, ids[:-1], ids[-1:]))
    assert (first, second) == (" caf", "\u0113")


def test_a_replacement_character_that_the_user_typed_is_not_written_twice(
    byte_level: Tokenizer,
) -> None:
    prompt_ids = list(byte_level.encode(f"odd {REPLACEMENT}").ids)
    generated = list(byte_level.encode(" mill").ids)
    assert "".join(pieces_of(byte_level, prompt_ids, generated)) == " mill"
