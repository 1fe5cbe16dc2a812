"""What fails, and whom it costs: a request, a step, the decoder, the worker itself."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_variants import finished, poison, request, write_endless
from watched_decoder import WatchedDecoder

from stentor.engine.decoder import Piece
from stentor.engine.engine import Engine
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, StopReason, Stream
from stentor.engine.text import IncrementalText
from stentor.engine.threads import ThreadBudget
from stentor.loading import Checkpoint, open_checkpoint_folder


@pytest.fixture
def endless(tiny_model_folder: Path, tmp_path: Path) -> Checkpoint:
    """Return the tiny model without an end-of-text token, so that only limits end a text."""
    return open_checkpoint_folder(write_endless(tiny_model_folder, tmp_path / "endless"))


@pytest.fixture
def open_engine() -> Iterator[Callable[..., Engine]]:
    """Return a function that opens int8 engines of one thread, which are closed at the end."""
    engines: list[Engine] = []

    def start(checkpoint: Checkpoint, num_slots: int = 32) -> Engine:
        engines.append(
            Engine(checkpoint, precision="int8", threads=ThreadBudget(1), num_slots=num_slots)
        )
        return engines[-1]

    yield start
    for engine in engines:
        if isinstance(engine._worker._decoder, WatchedDecoder):
            engine._worker._decoder.release()
        engine.close()


OpenEngine = Callable[..., Engine]


def limited(num_tokens: int, seed: int = 0) -> SamplingSettings:
    return SamplingSettings(temperature=1.0, max_new_tokens=num_tokens, seed=seed)


@pytest.fixture
def poisoned(endless: Checkpoint) -> Checkpoint:
    """Return a model with NaN in the input embedding of 'x': only prompts with an x fail."""
    poison(endless.folder, endless.tokenizer.encode("x").ids[0])
    return open_checkpoint_folder(endless.folder)


def test_a_failing_request_takes_nobody_down(poisoned: Checkpoint, open_engine: OpenEngine) -> None:
    engine = open_engine(poisoned)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=20)
    alone = finished(engine.submit(request(poisoned, "The", settings)))
    with engine._room._changed:
        good = engine.submit(request(poisoned, "The", settings))
        bad = engine.submit(request(poisoned, "x", settings))
        also_good = engine.submit(request(poisoned, "The", settings))
    failed = finished(bad)
    assert failed.stop_reason is StopReason.FAILED and failed.num_tokens == 0
    assert failed.error is not None and "NaN" in failed.error
    assert list(bad) == [], "a reader of a failed stream comes to an end"
    for stream in (good, also_good):
        assert finished(stream).token_ids == alone.token_ids


def test_a_tokenizer_that_fails_takes_nobody_down(
    endless: Checkpoint,
    open_engine: OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = open_engine(endless)
    watched = WatchedDecoder(engine, is_held=True)
    bad = engine.submit(request(endless, "A", limited(5), "a"))
    good = engine.submit(request(endless, "The", limited(5), "b"))
    watched.advance(3)
    broken = engine._room._active[0]._text
    whole = IncrementalText.add

    def add(self: IncrementalText, token_id: int) -> str:
        if self is broken:
            raise UnicodeError("no such byte")
        return whole(self, token_id)

    monkeypatch.setattr(IncrementalText, "add", add)
    watched.release()
    failed = finished(bad)
    assert failed.stop_reason is StopReason.FAILED and "no such byte" in str(failed.error)
    assert finished(good).stop_reason is StopReason.TOKEN_LIMIT
    assert capsys.readouterr().err.count("\n") == 1


def together(engine: Engine, checkpoint: Checkpoint, prompts: Sequence[str]) -> list[Stream]:
    with engine._room._changed:
        return [
            engine.submit(request(checkpoint, prompt, limited(8), f"session {number}"))
            for number, prompt in enumerate(prompts)
        ]


def test_a_step_that_raises_costs_only_the_one_at_fault(
    endless: Checkpoint, open_engine: OpenEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["The", "A", "Two", "rain"]
    texts = [finished(stream) for stream in together(open_engine(endless), endless, prompts)]

    def fail_with_rain(pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if piece.start > 4 and piece.slot == rain_slot:
                raise MemoryError("no room for rain")

    engine = open_engine(endless)
    rain_slot = engine.num_slots - 4  # the last slot is given first
    watched = WatchedDecoder(engine, fault=fail_with_rain)
    *good, bad = together(engine, endless, prompts)
    failed = finished(bad)
    assert failed.stop_reason is StopReason.FAILED and "no room for rain" in str(failed.error)
    assert failed.token_ids == texts[3].token_ids[: failed.num_tokens]
    for stream, expected in zip(good, texts, strict=False):
        assert finished(stream).token_ids == expected.token_ids
    assert not watched.is_closed, "the decoder goes on"
    assert "A request failed" in capsys.readouterr().err


def break_after(num_steps: int) -> Callable[[Sequence[Piece]], None]:
    """Return a fault: every step fails after the first ones."""
    counted = iter(range(num_steps))

    def fault(pieces: Sequence[Piece]) -> None:
        if next(counted, None) is None:
            raise RuntimeError("the decoder\nmelts")

    return fault


def test_a_broken_decoder_is_replaced_and_those_who_wait_are_served(
    endless: Checkpoint, open_engine: OpenEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = finished(open_engine(endless).submit(request(endless, "Two", limited(8))))
    engine = open_engine(endless, num_slots=2)
    watched = WatchedDecoder(engine, fault=break_after(3))
    *lost, waiting = together(engine, endless, ["The", "A", "Two"])
    for stream in lost:
        snapshot = finished(stream)
        assert snapshot.stop_reason is StopReason.FAILED and snapshot.num_tokens > 0
        assert "melts" in str(snapshot.error) and "started again" in str(snapshot.error)
    assert finished(waiting).token_ids == expected.token_ids
    assert watched.is_closed and engine._worker._decoder is not watched
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "requests lost: 2" in message
    assert engine.num_free_slots == 2


def test_a_decoder_that_cannot_be_made_again_says_why_and_hangs_nobody(
    endless: Checkpoint, open_engine: OpenEngine
) -> None:
    engine = open_engine(endless, num_slots=1)
    WatchedDecoder(engine, fault=break_after(0))
    weights = load_file(endless.files[0])
    save_file({name: torch.ones_like(tensor) for name, tensor in weights.items()}, endless.files[0])
    lost, waiting = together(engine, endless, ["The", "A"])
    assert "melts" in str(finished(lost).error)
    assert "was replaced. Load it again." in str(finished(waiting).error)
    shutil.rmtree(endless.folder)
    late = finished(engine.submit(request(endless, "The", limited(3))))
    assert late.stop_reason is StopReason.FAILED
    assert "cannot be read any more" in str(late.error)
    assert engine.num_requests == 0


@pytest.mark.parametrize("problem", [RuntimeError("the room burns"), SystemExit(3)])
def test_a_worker_that_breaks_is_started_again(
    endless: Checkpoint,
    open_engine: OpenEngine,
    monkeypatch: pytest.MonkeyPatch,
    problem: BaseException,
) -> None:
    """An error outside any step must not hang the room."""
    engine = open_engine(endless)

    def break_down() -> None:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(engine._room, "next_turn", break_down)
        broken: list[Snapshot] = [
            finished(stream) for stream in together(engine, endless, ["The", "A"])
        ]
    assert {snapshot.stop_reason for snapshot in broken} == {StopReason.FAILED}
    assert all("started again" in str(snapshot.error) for snapshot in broken)
    again = finished(engine.submit(request(endless, "The", limited(3))))
    assert again.stop_reason is StopReason.TOKEN_LIMIT


def test_a_thread_that_is_dead_is_started_by_the_next_request(
    endless: Checkpoint, open_engine: OpenEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(endless)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda _: None)
        patch.setattr(engine._worker, "_run", lambda: None)
        stream = engine.submit(request(endless, "The", limited(3)))
        assert engine._worker._thread is not None
        engine._worker._thread.join()
    assert not stream.is_done
    assert finished(engine.submit(request(endless, "A", limited(3)))).num_tokens == 3
    assert finished(stream).num_tokens == 3
