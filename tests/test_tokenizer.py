"""The tokenizer that a `create` stage trains."""

from pathlib import Path

from transformers import AutoTokenizer

from training.generated_text import generate_documents
from training.tokenizer import END_TOKEN, END_TOKEN_ID, train_tokenizer


def test_it_stops_reading_keeps_every_byte_and_loads_in_transformers(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(generate_documents("general"), 400, 20_000, tmp_path)
    assert tokenizer.get_vocab_size() == 400
    assert tokenizer.token_to_id(END_TOKEN) == END_TOKEN_ID == 0
    text = "Naïve café, 2048 — 😀\n\ttabs\r\n日本"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert [tokenizer.id_to_token(index) for index in tokenizer.encode("2048").ids] == list("2048")

    stock = AutoTokenizer.from_pretrained(tmp_path)
    assert stock(text)["input_ids"] == ids
    assert stock.eos_token_id == END_TOKEN_ID
    assert stock.decode(ids) == text
    assert stock.model_max_length == 512


def test_the_same_text_gives_the_same_tokenizer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_tokenizer(generate_documents("narrative"), 320, 5_000, tmp_path / name)
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("a", "b"))
    assert first == second


def test_little_text_gives_fewer_tokens_than_asked_for(tmp_path: Path) -> None:
    assert train_tokenizer(iter(["aaaa"]), 4096, 1_000, tmp_path).get_vocab_size() < 300
