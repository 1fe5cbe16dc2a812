"""How likely a text is: against transformers, in windows, and its bytes."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.engine.decoder import Alternative
from stentor.engine.stream import TokenRecord
from stentor.errors import OptionError, PromptError
from stentor.store import LoadedModel, ModelStore, encode
from stentor.token_scores import (
    ScoredText,
    num_bytes_after_first,
    score_text,
    score_tokens,
    token_json,
    token_text,
    total_bits,
)

TEXT = "The river runs past the mill. Naïve café 😀"


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> Iterator[LoadedModel]:
    with ModelStore(num_threads=1, precision="fp32") as store:
        yield store.load(str(tiny_model_folder))


def by_transformers(folder: Path, token_ids: list[int]) -> torch.Tensor:
    """Return the log-probabilities [token, vocabulary] after each token but the last."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([token_ids])).logits[0, :-1]
    return logits.log_softmax(dim=-1)


def test_a_text_is_as_likely_as_transformers_says(
    loaded: LoadedModel, tiny_model_folder: Path
) -> None:
    scored = score_text(loaded, TEXT, session="test", num_alternatives=3)
    ids = encode(loaded, TEXT).ids
    expected = by_transformers(tiny_model_folder, ids)
    assert [scored.first_token, *(record.token_id for record in scored.records)] == ids
    for place, record in enumerate(scored.records):
        row = expected[place]
        assert record.log_probability == pytest.approx(float(row[ids[place + 1]]), abs=1e-3)
        assert [item.token_id for item in record.alternatives] == row.topk(3).indices.tolist()
        assert record.rank == 1 + int((row > row[ids[place + 1]]).sum())
    bits = -sum(float(expected[place][ids[place + 1]]) for place in range(len(ids) - 1)) / math.log(
        2
    )
    assert scored.bits == pytest.approx(bits, rel=1e-4)
    assert scored.bits_per_byte == pytest.approx(bits / scored.num_bytes, rel=1e-4)


def test_a_long_text_is_read_in_windows_that_predict_every_token_once(
    loaded: LoadedModel, tiny_model_folder: Path
) -> None:
    ids = encode(loaded, "z" * 1_100).ids
    assert len(ids) == 1_100
    records = score_tokens(loaded.engine, ids, session="test")
    assert [record.token_id for record in records] == ids[1:]
    second = by_transformers(tiny_model_folder, ids[511:1_023])
    likelihoods = [record.log_probability for record in records[511:1_022]]
    expected = [float(row[ids[0]]) for row in second]
    assert likelihoods == pytest.approx(expected, abs=1e-3)


def test_no_window_begins_without_a_token_before_it(loaded: LoadedModel) -> None:
    """At 1 + 2 * 511 tokens the last window ends exactly; one more token makes another of two."""
    for num_tokens in (2, 512, 513, 1_023, 1_024):
        ids = encode(loaded, "z" * num_tokens).ids
        assert len(score_tokens(loaded.engine, ids, session="test")) == num_tokens - 1


def test_bytes_are_those_of_the_predicted_tokens(loaded: LoadedModel) -> None:
    encoding = encode(loaded, TEXT)
    first = token_text(loaded.checkpoint.tokenizer, encoding.ids[0])
    whole = len(TEXT.encode()) - len(first.encode())
    assert num_bytes_after_first(TEXT, encoding, len(encoding.ids)) == whole
    assert num_bytes_after_first(TEXT, encoding, 1) == 0
    some = num_bytes_after_first(TEXT, encoding, 4)
    shown = "".join(token_text(loaded.checkpoint.tokenizer, token) for token in encoding.ids[1:4])
    assert some == len(shown.encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "0 tokens"),
        ("z", "1 tokens"),
        ("ab\ud800c", "lone surrogate"),
        ("x" * 100_001, "100,001 characters"),
    ],
)
def test_texts_that_cannot_be_measured(loaded: LoadedModel, text: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        score_text(loaded, text, session="test")


@pytest.mark.parametrize("number", [-1, 11])
def test_alternatives_are_bounded(loaded: LoadedModel, number: int) -> None:
    with pytest.raises(OptionError):
        score_text(loaded, TEXT, session="test", num_alternatives=number)


def test_a_token_as_json_names_its_alternatives(loaded: LoadedModel) -> None:
    (token_id,) = encode(loaded, "z").ids
    record = TokenRecord(
        token_id=token_id,
        text="z",
        log_probability=-1.5,
        rank=2,
        alternatives=(Alternative(0, -0.5),),
        seconds=0.0,
    )
    values = token_json(record, loaded.checkpoint.tokenizer)
    assert (values["token_id"], values["text"], values["rank"]) == (token_id, "z", 2)
    assert values["alternatives"] == [{"token_id": 0, "text": "<|end|>", "log_probability": -0.5}]


def test_bits_of_nothing_are_no_number_per_byte() -> None:
    assert total_bits([math.log(0.5), math.log(0.25)]) == pytest.approx(3.0)
    assert ScoredText(0, (), 0).bits_per_byte is None
