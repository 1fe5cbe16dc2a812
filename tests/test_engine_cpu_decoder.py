"""The CPU decoder answers each request as if nobody else were there, to the bit.

What it computes is checked in test_engine_cpu_forward.py.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from threading import enumerate as living_threads
from typing import Any

import numpy as np
import pytest
import torch
from cpu_models import (
    EMBEDDED,
    GREEDY,
    PRECISIONS,
    Request,
    measure,
    new_requests,
    open_decoder,
    open_embedded,
    random_ids,
    run_alone,
    run_in_a_room,
    write_llama,
)

from stentor.engine import cpu_decoder
from stentor.engine.cpu.step import run_step
from stentor.engine.cpu_decoder import MAX_STEP_TOKENS, slot_bytes
from stentor.engine.decoder import Answer, Decoder, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings
from stentor.engine.threads import ThreadBudget
from stentor.engine.torch_decoder import TorchDecoder
from stentor.loading import Checkpoint, open_checkpoint_folder

SECONDS = 60.0  # far more than any of this needs


@pytest.fixture(scope="module", params=["odd", *EMBEDDED[:1]])
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    if request.param in EMBEDDED:
        return open_embedded(request.param)
    return open_checkpoint_folder(write_llama(tmp_path_factory.mktemp("odd"), "odd"))


@pytest.fixture
def tiny(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_request_gets_the_same_bits_alone_and_in_a_full_room(
    checkpoint: Checkpoint, precision: str
) -> None:
    """50 requests in 30 slots, of all settings, read in other chunks, by 1, 2 and 3 threads."""
    alone = new_requests(checkpoint, 50)
    decoder = open_decoder(checkpoint, precision, num_slots=1)
    for request in alone:
        run_alone(decoder, request)
    for num_threads in (1, 2, 3):
        room = new_requests(checkpoint, 50)
        budget = ThreadBudget(num_threads)
        full = open_decoder(checkpoint, precision, num_slots=30, threads=budget)
        run_in_a_room(full, room, seed=num_threads)
        full.close()
        assert [request.answers for request in room] == [request.answers for request in alone]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_that_come_and_go_change_nothing(tiny: Checkpoint, precision: str) -> None:
    """Another model becomes busy while a text is written, and is done before it is."""
    budget = ThreadBudget(4)
    decoder = open_decoder(tiny, precision, threads=budget)
    request = Request(random_ids(tiny, 9), SamplingSettings(temperature=1.0, top_p=1.0), 12)
    while not request.is_finished:
        if len(request.answers) % 3 == 1:
            with budget.busy(), budget.busy():
                answers = decoder.step([request.next_piece(0, 4)])[0]
        else:
            answers = decoder.step([request.next_piece(0, 4)])[0]
        request.answers += answers
    decoder.close()
    expected = Request(request.prompt, request.settings, request.num_new)
    run_alone(open_decoder(tiny, precision), expected)
    assert request.answers == expected.answers


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_drawn_is_what_is_measured(checkpoint: Checkpoint, precision: str) -> None:
    """A text that was generated and is then scored gives the same numbers, to the bit."""
    decoder = open_decoder(checkpoint, precision)
    settings = SamplingSettings(temperature=1.2, top_k=50, repetition_penalty=1.3, seed=4)
    request = Request(random_ids(checkpoint, 11), settings, num_new=40, num_alternatives=10)
    run_alone(decoder, request)
    text = request.prompt + tuple(answer.token_id for answer in request.answers)
    for sizes in ([50], [1] * 50, [11, 20, 19]):
        told = measure(decoder, text, sizes, slot=1, count=10)
        assert [answer.token_id for answer in told] == list(text[1:])
        assert list(told[10:]) == request.answers


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_slot_forgets_the_request_before(tiny: Checkpoint, precision: str) -> None:
    """Its keys, its values, and above all which tokens it had seen."""
    decoder = open_decoder(tiny, precision, num_slots=1)
    everything = tuple(range(tiny.shape.vocab_size))[:250]
    decoder.step([Piece(0, 0, everything)])
    settings = SamplingSettings(temperature=0.0, repetition_penalty=2.0)
    second = Request(random_ids(tiny, 20), settings, num_new=20)
    run_alone(decoder, second)
    fresh = Request(random_ids(tiny, 20), settings, num_new=20)
    run_alone(open_decoder(tiny, precision), fresh)
    assert second.answers == fresh.answers


def test_the_penalty_knows_prompt_and_answers(tiny: Checkpoint) -> None:
    decoder = open_decoder(tiny, "fp32")
    settings = SamplingSettings(temperature=0.0, repetition_penalty=1.7)
    request = Request(random_ids(tiny, 12), settings, num_new=30)
    seen = list(request.prompt)
    while not request.is_finished:
        request.answers += decoder.step([request.next_piece(1, 5)])[0]
        if request.answers:
            logits = decoder._buffers.logits[0, : tiny.shape.vocab_size].copy()
            one = logits[seen]
            logits[seen] = np.where(one < 0, one * np.float32(1.7), one / np.float32(1.7))
            seen.append(request.answers[-1].token_id)
            assert seen[-1] == logits.argmax()
    assert len(request.answers) == 30


@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_come_in_the_order_of_the_pieces(tiny: Checkpoint, precision: str) -> None:
    decoder: Decoder = open_decoder(tiny, precision, num_slots=5)
    ids = random_ids(tiny, 40)
    pieces = [
        Piece(3, 0, ids[:30], Measure(ids[1:31], 1)),
        Piece(1, 0, ids[:5]),
        Piece(0, 0, ids[:7], Draw(GREEDY, 0.0)),
        Piece(2, 0, ids[:7], Draw(GREEDY, 0.0, 10)),
        Piece(4, 0, ids[:3], Measure(ids[1:4])),
    ]
    measured, nothing, plain, told, short = decoder.step(pieces)
    assert [answer.token_id for answer in measured] == list(ids[1:31])
    assert {len(answer.alternatives) for answer in measured} == {1}
    assert nothing == ()
    assert plain[0][:3] == told[0][:3] and plain[0].alternatives == ()
    assert told[0].alternatives[0] == plain[0][:2], "greedy is the first alternative"
    assert [answer[:3] for answer in short] == [answer[:3] for answer in measured[:3]]
    assert decoder.step([Piece(1, 5, (3,))]) == [()]


def test_a_vocabulary_smaller_than_the_alternatives_lists_what_there_is(
    tiny: Checkpoint,
) -> None:
    """Ten were returned, the rest of them from memory that nobody had written."""
    decoder = open_decoder(tiny, "fp32")
    decoder._seen = decoder._seen[:, :4].copy()  # the first 4 tokens of the vocabulary
    (answer,) = decoder.step([Piece(0, 0, (1, 2), Draw(GREEDY, 0.0, 10))])[0]
    assert sorted(other.token_id for other in answer.alternatives) == [0, 1, 2, 3]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_has_an_upper_bound_and_uses_it(tiny: Checkpoint, precision: str) -> None:
    decoder = open_decoder(tiny, precision, num_slots=2)
    ids = random_ids(tiny, 2 * MAX_STEP_TOKENS)
    half = MAX_STEP_TOKENS // 2
    pieces = [Piece(slot, 0, ids[:half], Measure(ids[1 : half + 1])) for slot in (0, 1)]
    first, second = decoder.step(pieces)
    assert first == second and len(first) == half
    whole = Piece(0, 0, ids[:MAX_STEP_TOKENS], Measure(ids[1 : MAX_STEP_TOKENS + 1], 10))
    assert decoder.step([whole])[0][:half][0][:3] == first[0][:3]
    for refused in ([Piece(0, 0, ids[: MAX_STEP_TOKENS + 1])], [Piece(0, 0, ())], []):
        with pytest.raises(AssertionError):
            decoder.step(refused)
    assert decoder.step(pieces) == [first, second], "a refusal breaks nothing"


def test_a_position_beyond_the_context_is_refused(tiny: Checkpoint) -> None:
    """Compiled code looks at no bounds: it would write into the next slot."""
    decoder = open_decoder(tiny, "int8", context_length=16)
    decoder.step([Piece(0, 0, tuple(range(16)))])
    for piece in (Piece(0, 16, (1,)), Piece(0, 10, tuple(range(7)))):
        with pytest.raises(AssertionError):
            decoder.step([piece])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_size_of_the_cache_is_true(tiny: Checkpoint, precision: str) -> None:
    decoder = open_decoder(tiny, precision, num_slots=7, context_length=33)
    arrays = (decoder._cache.keys, decoder._cache.values)
    scales = (decoder._cache.key_scales, decoder._cache.value_scales)
    size = sum(array.nbytes for array in (*arrays, *scales))
    assert decoder.cache_bytes == size == 7 * slot_bytes(tiny.shape, 33, precision)
    assert (decoder.precision, decoder.num_slots) == (precision, 7)


def helpers() -> set[Thread]:
    return {thread for thread in living_threads() if thread.name.startswith("stentor-decoder")}


def test_close_ends_the_helper_threads(tiny: Checkpoint) -> None:
    before = helpers()
    decoder = open_decoder(tiny, "int8", threads=ThreadBudget(3))
    decoder.step([Piece(0, 0, (1, 2, 3))])
    mine = helpers() - before
    assert len(mine) == 2
    decoder.close()
    for thread in mine:
        thread.join(SECONDS)
    assert not helpers() & mine


@pytest.mark.parametrize("at_fault", [0, 1])
def test_a_thread_that_fails_ends_the_step_and_not_the_decoder(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, at_fault: int
) -> None:
    """Memory may run out on any thread; the others waited for that one for ever."""
    decoder = open_decoder(tiny, "int8", threads=ThreadBudget(2))
    piece = Piece(0, 0, random_ids(tiny, 9), Draw(GREEDY, 0.0))
    before = decoder.step([piece])
    with monkeypatch.context() as patched:
        patched.setattr(cpu_decoder, "run_step", failing_on(at_fault, MemoryError))
        with pytest.raises(MemoryError):
            decoder.step([piece])
    assert decoder.step([piece]) == before
    decoder.close()


def failing_on(at_fault: int, problem: type[Exception]) -> Callable[..., None]:
    """Return run_step, but for one failure on one thread."""
    failures = [problem]

    def run(*arguments: Any) -> None:  # noqa: ANN401 - those of run_step
        if arguments[-1].thread == at_fault and failures:
            raise failures.pop()
        run_step(*arguments)

    return run


@pytest.mark.parametrize("at_fault", [0, 1])
def test_a_full_disk_is_no_reason_not_to_open(
    tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch, at_fault: int
) -> None:
    """What was compiled cannot be kept: see test_engine_cpu_compiled.py."""
    monkeypatch.setattr(cpu_decoder, "run_step", failing_on(at_fault, OSError))
    decoder = open_decoder(tiny, "int8", threads=ThreadBudget(2))
    assert len(decoder.step([Piece(0, 0, (1, 2), Draw(GREEDY, 0.0))])[0]) == 1
    decoder.close()


def test_settings_mean_the_same_on_every_device(tiny: Checkpoint) -> None:
    """The decoder for CUDA, run here in fp32, draws the same tokens."""
    torch_decoder = TorchDecoder(
        tiny, device=torch.device("cpu"), num_slots=1, context_length=tiny.shape.context_length
    )
    decoder = open_decoder(tiny, "fp32")
    for request, other in zip(new_requests(tiny, 25), new_requests(tiny, 25), strict=True):
        run_alone(decoder, request)
        run_alone(torch_decoder, other)
        for one, two in zip(request.answers, other.answers, strict=True):
            assert same_answers(one, two)


def same_answers(one: Answer, other: Answer) -> bool:
    """Tell whether two answers differ in nothing but the last digits of their logarithms."""
    ids = [[likely.token_id for likely in answer.alternatives] for answer in (one, other)]
    close = abs(one.log_probability - other.log_probability) < 1e-4
    return close and one.token_id == other.token_id and one.rank == other.rank and ids[0] == ids[1]
