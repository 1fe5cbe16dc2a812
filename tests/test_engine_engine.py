"""The engine: same seed same text whoever is in the room, measured texts, ends, nothing kept."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
from tiny_variants import finished, request, write_endless
from watched_decoder import WatchedDecoder

from stentor.engine.decoder import MAX_ALTERNATIVES
from stentor.engine.engine import NUM_SLOTS, Engine, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.scheduler import PIECE_TOKENS
from stentor.engine.stream import StopReason, Stream, TokenRecord
from stentor.engine.threads import ThreadBudget
from stentor.errors import ModelError, OptionError, PromptError
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.provenance import num_cores

SHORT = SamplingSettings(temperature=1.0, max_new_tokens=5)
LONG = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=400)
WORDS = ["The", " river", " runs", " café", " 😀", " two", " four", " x", "\n", " lamp", " مرحبا"]


@pytest.fixture
def endless(tiny_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Return the tiny model without an end-of-text token, so that only limits end a text."""
    return open_checkpoint_folder(write_endless(tiny_model_folder, tmp_path / "endless"))


@pytest.fixture
def engine(endless: Checkpoint) -> Iterator[Engine]:
    engine = Engine(endless, precision="int8", threads=ThreadBudget(1))
    yield engine
    engine.close()


def different_requests(checkpoint: Checkpoint, number: int) -> list[GenerationRequest]:
    """Return requests that differ in prompt, length, seed and every sampler."""
    chance = random.Random(number)
    requests = []
    for place in range(number):
        prompt = "".join(chance.choices(WORDS, k=chance.choice((1, 3, 10, 60))))
        settings = SamplingSettings(
            temperature=chance.choice((0.0, 0.5, 1.0, 2.0)),
            top_p=chance.choice((0.3, 0.9, 1.0)),
            top_k=chance.choice((0, 1, 20)),
            min_p=chance.choice((0.0, 0.0, 0.1)),
            repetition_penalty=chance.choice((0.8, 1.0, 1.3)),
            max_new_tokens=chance.choice((1, 8, 20, 30)),
            seed=chance.randrange(2**32),
        )
        ids = tuple(checkpoint.tokenizer.encode(prompt).ids)
        requests.append(
            GenerationRequest(
                ids, settings, f"session {place % 40}", num_alternatives=chance.choice((0, 0, 3))
            )
        )
    return requests


def outcome(stream: Stream) -> tuple[list[TokenRecord], StopReason | None, str]:
    """Return everything of a stream that no clock decides."""
    snapshot = finished(stream)
    records = [record._replace(seconds=0.0) for record in stream.tokens]
    return records, snapshot.stop_reason, snapshot.text


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_fifty_requests_in_a_full_room_are_bit_for_bit_each_alone(
    endless: Checkpoint, precision: str
) -> None:
    """Promise 1: the same seed gives the same text whoever else is in the room."""
    checkpoint = replace(endless, end_tokens=frozenset(range(10)))
    requests = different_requests(checkpoint, 80)
    lone = Engine(checkpoint, precision=precision, threads=ThreadBudget(1), num_slots=1)
    alone = [outcome(lone.submit(item)) for item in requests[:50]]
    lone.close()
    assert len({text for _, _, text in alone}) > 30
    assert {reason for _, reason, _ in alone} == {StopReason.TOKEN_LIMIT, StopReason.END_OF_TEXT}
    room = Engine(checkpoint, precision=precision, threads=ThreadBudget(2), num_slots=30)
    with room._room._changed:  # as long as it is held, the worker cannot begin
        streams = [room.submit(item) for item in requests]
    assert [outcome(stream) for stream in streams[:50]] == alone
    room.close()


def test_continuing_draws_what_one_longer_generation_would_have_drawn(
    engine: Engine, endless: Checkpoint
) -> None:
    def settings(num_tokens: int) -> SamplingSettings:
        return SamplingSettings(
            temperature=1.0, repetition_penalty=1.2, max_new_tokens=num_tokens, seed=8
        )

    whole_request = request(endless, "The miller", settings(30))
    whole = finished(engine.submit(whole_request))
    begun = finished(engine.submit(request(endless, "The miller", settings(11))))
    given = whole_request.prompt_ids + begun.token_ids
    rest = finished(engine.submit(GenerationRequest(given, settings(19), "a", first_index=11)))
    assert begun.token_ids + rest.token_ids == whole.token_ids
    assert begun.text + rest.text == whole.text


def test_another_seed_gives_another_text(engine: Engine, endless: Checkpoint) -> None:
    texts = {
        finished(engine.submit(request(endless, "The", SamplingSettings(1.0, seed=seed)))).text
        for seed in range(4)
    }
    assert len(texts) == 4


def test_the_token_limit_and_the_records(engine: Engine, endless: Checkpoint) -> None:
    settings = SamplingSettings(temperature=1.0, max_new_tokens=12)
    stream = engine.submit(request(endless, "The", settings))
    records = list(stream)
    snapshot = finished(stream)
    assert snapshot.stop_reason is StopReason.TOKEN_LIMIT and snapshot.error is None
    assert snapshot.num_tokens == len(records) == 12
    assert snapshot.text == "".join(record.text for record in records)
    assert all(record.log_probability <= 0.0 and record.rank >= 1 for record in records)
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds) and seconds[0] == snapshot.seconds_to_first_token
    assert engine.num_requests == 0


def test_alternatives_on_request(engine: Engine, endless: Checkpoint) -> None:
    ids = request(endless, "The", SHORT).prompt_ids
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=6)
    for wanted in (0, 1, MAX_ALTERNATIVES):
        stream = engine.submit(GenerationRequest(ids, greedy, "a", num_alternatives=wanted))
        finished(stream)
        for record in stream.tokens:
            assert len(record.alternatives) == wanted
            scores = [alternative.log_probability for alternative in record.alternatives]
            assert scores == sorted(scores, reverse=True)
            if wanted:
                assert record.alternatives[0] == (record.token_id, record.log_probability)
                assert record.rank == 1
    with pytest.raises(OptionError):
        engine.submit(GenerationRequest(ids, greedy, "a", num_alternatives=11))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_measured_text_gives_what_its_generation_recorded(
    endless: Checkpoint, precision: str
) -> None:
    """Read in one go it must give the same bits as token by token."""
    engine = Engine(endless, precision=precision, threads=ThreadBudget(1))
    for seed, prompt in enumerate(("The", "A small lamp burns", "café 😀" * 30)):
        settings = SamplingSettings(1.5, max_new_tokens=150, seed=seed)
        ids = request(endless, prompt, settings).prompt_ids
        stream = engine.submit(GenerationRequest(ids, settings, "a", num_alternatives=4))
        snapshot = finished(stream)
        records = engine.score(ids + snapshot.token_ids, session="a", num_alternatives=4)
        assert [record.token_id for record in records[: len(ids) - 1]] == list(ids[1:])
        measured = records[len(ids) - 1 :]
        for ours, theirs in zip(measured, stream.tokens, strict=True):
            assert ours._replace(seconds=0.0) == theirs._replace(seconds=0.0)
    engine.close()


def test_measuring_a_long_text_holds_up_nobody(engine: Engine, endless: Checkpoint) -> None:
    watched = WatchedDecoder(engine, is_held=True)
    stream = engine.submit(request(endless, "The", LONG))
    watched.advance(2)
    records: list[tuple[TokenRecord, ...]] = []
    scorer = Thread(target=lambda: records.append(engine.score((5,) * 512, session="b")))
    scorer.start()
    while engine.num_requests < 2:
        watched.advance()
    while engine.num_requests == 2:
        before = stream.snapshot().num_tokens
        watched.advance()
        assert stream.snapshot().num_tokens == before + 1
        assert all(len(piece.token_ids) <= PIECE_TOKENS for piece in watched.steps[-1])
    scorer.join()
    assert len(records[0]) == 511
    watched.release()


def test_texts_that_cannot_be_measured_are_refused(engine: Engine, endless: Checkpoint) -> None:
    for token_ids in ((), (1,), (1,) * 513, (1, -1), (1, endless.shape.vocab_size)):
        with pytest.raises(PromptError):
            engine.score(token_ids, session="a")
    with pytest.raises(OptionError):
        engine.score((1, 2), session="a", num_alternatives=11)
    assert engine.num_requests == 0


def test_closing_ends_a_measurement_with_a_reason(engine: Engine) -> None:
    watched = WatchedDecoder(engine, is_held=True)
    problems: list[str] = []

    def measure() -> None:
        with pytest.raises(ModelError) as caught:
            engine.score((5,) * 512, session="a")
        problems.append(str(caught.value))

    scorer = Thread(target=measure)
    scorer.start()
    while not engine.num_requests:
        watched.wait_at_gate()
    engine._room.close()
    watched.release()
    engine.close()
    scorer.join()
    assert "was closed while it measured" in problems[0]


def test_the_end_of_text_token_ends_a_text_and_is_no_part_of_it(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Whatever this model says first is declared its end-of-text token."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=5)
    outputs = []
    for _ in range(2):
        checkpoint = open_checkpoint_folder(folder)
        engine = Engine(checkpoint, threads=ThreadBudget(1))
        outputs.append(finished(engine.submit(request(checkpoint, "The", greedy))))
        engine.close()
        first = outputs[0].token_ids[0]
        (folder / "generation_config.json").write_text(f'{{"eos_token_id": [{first}, 0]}}')
    assert outputs[1].stop_reason is StopReason.END_OF_TEXT
    assert (outputs[1].num_tokens, outputs[1].text) == (0, "")


def test_a_full_context_ends_a_text(engine: Engine, endless: Checkpoint) -> None:
    prompt_ids = tuple(endless.tokenizer.encode("a" * 600).ids[:500])
    assert engine.context_length == 512 and len(prompt_ids) == 500
    snapshot = finished(engine.submit(GenerationRequest(prompt_ids, LONG, "a")))
    assert snapshot.stop_reason is StopReason.CONTEXT_FULL
    assert snapshot.num_tokens == 12


def test_closing_stops_every_stream_and_refuses_new_ones(endless: Checkpoint) -> None:
    engine = Engine(endless, threads=ThreadBudget(1), num_slots=1)
    watched = WatchedDecoder(engine, is_held=True)
    streams = [engine.submit(request(endless, "The", LONG)) for _ in range(3)]
    watched.advance(2)
    engine._room.close()
    watched.release()
    engine.close()
    assert {finished(stream).stop_reason for stream in streams} == {StopReason.STOPPED}
    assert watched.is_closed
    with pytest.raises(ModelError, match="closed"):
        engine.submit(request(endless, "The", LONG))
    engine.close()


def test_closing_an_engine_that_was_never_asked(endless: Checkpoint) -> None:
    engine = Engine(endless, threads=ThreadBudget(1))
    watched = WatchedDecoder(engine)
    engine.close()
    assert watched.is_closed


def test_an_engine_says_what_it_is(endless: Checkpoint) -> None:
    engine = Engine(endless, precision="fp32", threads=ThreadBudget(2), num_slots=3)
    assert (engine.precision, engine.device) == ("fp32", "cpu")
    assert engine.num_slots == engine.num_free_slots == 3
    assert engine.describe() == (
        f"fp32, 3 slots x 512 tokens, KV cache {engine.cache_bytes / 1e6:.0f} MB, 2 threads"
    )
    engine.close()
    default = Engine(endless)
    assert (default.num_slots, default.num_threads) == (NUM_SLOTS, num_cores())
    default.close()
    with pytest.raises(OptionError, match="at least 1 slot"):
        Engine(endless, num_slots=0)
