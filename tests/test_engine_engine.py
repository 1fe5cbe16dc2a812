"""The engine: same seed same text whoever is in the room, fair turns, stops, failures, ends."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import torch
from tiny_variants import deepen, finished, poison, request, write_endless

from stentor.engine.engine import (
    MAX_WAITING,
    PREFILL_TOKENS,
    Engine,
    GenerationRequest,
    default_num_threads,
)
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.errors import ModelError, OptionError, PromptError, StentorError
from stentor.loading import Checkpoint, open_checkpoint_folder

SHORT = SamplingSettings(temperature=1.0, max_new_tokens=5)
LONG = SamplingSettings(temperature=1.0, top_p=1.0, max_new_tokens=400)


@pytest.fixture
def endless(tiny_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Return the tiny model without an end-of-text token, so that only limits end a text."""
    return open_checkpoint_folder(write_endless(tiny_model_folder, tmp_path / "endless"))


@pytest.fixture
def slow(endless: Checkpoint) -> Checkpoint:
    """Return a model of 24 layers: its long texts last for seconds, so a test can interfere."""
    deepen(endless.folder, 24)
    return open_checkpoint_folder(endless.folder)


@pytest.fixture
def engine(endless: Checkpoint) -> Iterator[Engine]:
    engine = Engine(endless, num_threads=1)
    yield engine
    engine.close()


def different_requests(checkpoint: Checkpoint) -> list[GenerationRequest]:
    """Return eight requests that differ in prompt, length, seed and every sampler."""
    prompts = ["The", "A small lamp burns", "Two and two", "café 😀", "x" * 150, "rain", "on", "!"]
    return [
        request(
            checkpoint,
            prompt,
            SamplingSettings(
                temperature=0.25 * number,
                top_p=1.0 - 0.1 * number,
                top_k=5 * number,
                repetition_penalty=1.0 + 0.1 * (number % 3),
                max_new_tokens=20 + 5 * number,
                seed=number,
            ),
            session=f"session {number % 3}",
        )
        for number, prompt in enumerate(prompts)
    ]


def test_eight_requests_together_are_bit_for_bit_each_alone(endless: Checkpoint) -> None:
    """Promise 1: the same seed gives the same text whoever else is in the room."""
    requests = different_requests(endless)
    assert max(len(item.prompt_ids) for item in requests) > PREFILL_TOKENS
    alone = []
    for item in requests:
        engine = Engine(endless, num_threads=1)
        stream = engine.submit(item)
        finished(stream)
        alone.append([(record.token_id, record.log_probability) for record in stream.tokens])
        engine.close()
    engine = Engine(endless, num_threads=1)
    streams = [engine.submit(item) for item in requests]
    for stream, expected in zip(streams, alone, strict=True):
        finished(stream)
        received = [(record.token_id, record.log_probability) for record in stream.tokens]
        assert received == expected
    engine.close()


def test_continuing_draws_what_one_longer_generation_would_have_drawn(
    engine: Engine, endless: Checkpoint
) -> None:
    settings = SamplingSettings(temperature=1.0, repetition_penalty=1.2, max_new_tokens=30, seed=8)
    whole_request = request(endless, "The miller", settings)
    whole = finished(engine.submit(whole_request))
    short = SamplingSettings(temperature=1.0, repetition_penalty=1.2, max_new_tokens=11, seed=8)
    begun = finished(engine.submit(request(endless, "The miller", short)))
    rest = finished(
        engine.submit(
            GenerationRequest(
                whole_request.prompt_ids + begun.token_ids,
                SamplingSettings(
                    temperature=1.0, repetition_penalty=1.2, max_new_tokens=19, seed=8
                ),
                "a",
                first_index=11,
            )
        )
    )
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
    assert all(record.log_probability <= 0.0 for record in records)
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds) and seconds[0] == snapshot.seconds_to_first_token
    assert engine.num_requests == 0


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
        engine = Engine(checkpoint, num_threads=1)
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


def test_requests_that_cannot_be_generated_from_are_refused(
    engine: Engine, endless: Checkpoint
) -> None:
    for prompt_ids in ((), (1,) * 512, (-1,), (endless.shape.vocab_size,)):
        with pytest.raises(PromptError):
            engine.submit(GenerationRequest(prompt_ids, LONG, "a"))
    with pytest.raises(OptionError):
        engine.submit(GenerationRequest((1,), SamplingSettings(top_p=0.0), "a"))
    assert engine.num_requests == 0


def test_a_cancelled_stream_ends_within_a_token_and_the_others_go_on(slow: Checkpoint) -> None:
    engine = Engine(slow, num_threads=1, max_rows=2)
    doomed, other = (engine.submit(request(slow, text, LONG)) for text in ("The", "A"))
    waiting = engine.submit(request(slow, "Two", LONG))
    next(iter(doomed))
    doomed.cancel()
    stopped = finished(doomed)
    assert stopped.stop_reason is StopReason.STOPPED
    assert 1 <= stopped.num_tokens < LONG.max_new_tokens
    next(iter(waiting))  # the freed slot serves the next in line
    before = other.snapshot().num_tokens
    while other.snapshot().num_tokens < before + 2:  # and nobody else is held up
        assert not other.is_done
    engine.close()


def test_a_waiting_request_knows_its_place_and_can_be_cancelled(
    engine: Engine, endless: Checkpoint
) -> None:
    with engine._changed:  # as long as it is held, the worker cannot begin
        streams = [engine.submit(request(endless, "The", SHORT)) for _ in range(3)]
        assert [stream.snapshot().queue_position for stream in streams] == [1, 2, 3]
        streams[1].cancel()
    assert finished(streams[1]).stop_reason is StopReason.STOPPED
    assert finished(streams[1]).num_tokens == 0
    for stream in (streams[0], streams[2]):
        assert finished(stream).stop_reason is StopReason.TOKEN_LIMIT
        assert finished(stream).queue_position == 0


def test_a_session_with_twenty_requests_does_not_starve_another(
    engine: Engine, endless: Checkpoint
) -> None:
    """The newcomer is served after one request of the greedy session, not after twenty."""
    with engine._changed:
        for _ in range(20):
            engine.submit(request(endless, "The", SHORT, "greedy"))
        newcomer = engine.submit(request(endless, "A", SHORT, "newcomer"))
        assert newcomer.snapshot().queue_position == 2
    assert finished(newcomer).num_tokens == SHORT.max_new_tokens


def test_a_full_waiting_room_is_a_clear_refusal(engine: Engine, endless: Checkpoint) -> None:
    with engine._changed:
        for number in range(MAX_WAITING):
            engine.submit(request(endless, "The", SHORT, f"session {number}"))
        with pytest.raises(StentorError, match="128 requests are waiting already"):
            engine.submit(request(endless, "The", SHORT))


def test_closing_stops_every_stream_and_refuses_new_ones(slow: Checkpoint) -> None:
    engine = Engine(slow, num_threads=1, max_rows=1)
    streams = [engine.submit(request(slow, "The", LONG)) for _ in range(3)]
    next(iter(streams[0]))
    engine.close()
    assert {finished(stream).stop_reason for stream in streams} == {StopReason.STOPPED}
    with pytest.raises(ModelError, match="closed"):
        engine.submit(request(slow, "The", LONG))
    engine.close()


def test_many_threads_may_submit_at_once(engine: Engine, endless: Checkpoint) -> None:
    settings = SamplingSettings(max_new_tokens=4, seed=3)
    streams: list[Stream] = []

    def submit(session: str) -> None:
        streams.extend(engine.submit(request(endless, "The", settings, session)) for _ in range(5))

    threads = [Thread(target=submit, args=(f"session {number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({finished(stream).text for stream in streams}) == 1
    assert len(streams) == 30


@pytest.fixture
def poisoned(endless: Checkpoint) -> Checkpoint:
    """Return a model with NaN in the input embedding of 'x': only prompts with an x fail."""
    poison(endless.folder, endless.tokenizer.encode("x").ids[0])
    return open_checkpoint_folder(endless.folder)


def test_a_failing_request_takes_nobody_down(poisoned: Checkpoint) -> None:
    engine = Engine(poisoned, num_threads=1)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=20)
    alone = finished(engine.submit(request(poisoned, "The", settings)))
    good = engine.submit(request(poisoned, "The", settings))
    bad = engine.submit(request(poisoned, "x", settings))
    also_good = engine.submit(request(poisoned, "The", settings))
    failed = finished(bad)
    assert failed.stop_reason is StopReason.FAILED and failed.num_tokens == 0
    assert failed.error is not None and "NaN" in failed.error
    assert list(bad) == [], "a reader of a failed stream comes to an end"
    for stream in (good, also_good):
        assert finished(stream).token_ids == alone.token_ids
    engine.close()


def test_a_worker_that_breaks_fails_its_streams_and_is_started_anew(
    engine: Engine, endless: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error outside any single request (here: the turn itself) must not hang the room."""

    def break_down() -> None:
        raise RuntimeError("the waiting room burns")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_admit", break_down)
        streams = [engine.submit(request(endless, "The", LONG)) for _ in range(2)]
        broken = [finished(stream) for stream in streams]
    assert {snapshot.stop_reason for snapshot in broken} == {StopReason.FAILED}
    assert all("the waiting room burns" in str(snapshot.error) for snapshot in broken)
    again = finished(engine.submit(request(endless, "The", SamplingSettings(max_new_tokens=3))))
    assert again.stop_reason is StopReason.TOKEN_LIMIT


def test_the_worker_uses_its_own_number_of_threads(endless: Checkpoint) -> None:
    before = torch.get_num_threads()
    engine = Engine(endless, num_threads=2)
    finished(engine.submit(request(endless, "The", SamplingSettings(max_new_tokens=2))))
    assert torch.get_num_threads() == before
    assert engine.num_threads == 2
    engine.close()
    assert Engine(endless).num_threads == default_num_threads() >= 1
