"""A stream: what readers see while it runs, at its end, and from other threads."""

from threading import Thread

from stentor.engine.decoder import Alternative, Answer
from stentor.engine.stream import StopReason, Stream


def answer(token_id: int, log_probability: float = -1.0) -> Answer:
    return Answer(token_id, log_probability, 1)


def test_a_fresh_stream_has_nothing_to_measure() -> None:
    snapshot = Stream().snapshot()
    assert (snapshot.text, snapshot.token_ids, snapshot.num_tokens) == ("", (), 0)
    assert snapshot.seconds_to_first_token is None and snapshot.tokens_per_second is None
    assert snapshot.expected_wait_seconds is None
    assert not snapshot.is_done and snapshot.stop_reason is None and snapshot.error is None


def test_snapshot_and_records_tell_the_same() -> None:
    stream = Stream()
    stream.append(" the", answer(5, -0.5))
    stream.append("", answer(6, -1.5))
    assert stream.snapshot().text == " the", "a reader in between changes nothing"
    stream.append("é", answer(7, -2.5))
    stream.finish(StopReason.TOKEN_LIMIT)
    snapshot = stream.snapshot()
    assert snapshot.text == " theé" == "".join(record.text for record in stream.tokens)
    assert snapshot.token_ids == (5, 6, 7)
    assert snapshot.seconds_to_first_token == stream.tokens[0].seconds
    span = stream.tokens[-1].seconds - stream.tokens[0].seconds
    assert snapshot.tokens_per_second == 2 / span
    assert snapshot.is_done and snapshot.stop_reason is StopReason.TOKEN_LIMIT


def test_a_record_is_what_the_decoder_answered() -> None:
    stream = Stream()
    alternatives = (Alternative(3, -0.25), Alternative(5, -2.0))
    stream.append("x", Answer(5, -2.0, 2, alternatives))
    record = stream.tokens[0]
    assert (record.token_id, record.log_probability, record.rank) == (5, -2.0, 2)
    assert (record.text, record.alternatives) == ("x", alternatives)


def test_a_snapshot_is_taken_once_per_change() -> None:
    """Thirty browsers ask ten times a second; most of the time nothing has happened."""
    stream = Stream()
    before = stream.snapshot()
    assert stream.snapshot() is before
    stream.append("x", answer(1))
    assert stream.snapshot() is not before and before.num_tokens == 0


def test_the_first_end_counts() -> None:
    stream = Stream()
    stream.finish(StopReason.FAILED, "why")
    stream.finish(StopReason.STOPPED)
    assert stream.snapshot().stop_reason is StopReason.FAILED
    assert stream.snapshot().error == "why"


def test_a_stop_reason_reads_as_plain_words() -> None:
    assert [str(reason) for reason in StopReason] == [
        "end of text",
        "token limit",
        "context full",
        "stopped",
        "out of time",
        "failed",
    ]


def test_readers_in_other_threads_get_every_record_once() -> None:
    stream = Stream()
    received: list[list[int]] = [[], [], []]

    def read(place: int) -> None:
        received[place] = [record.token_id for record in stream]

    readers = [Thread(target=read, args=(place,)) for place in range(3)]
    for reader in readers:
        reader.start()
    for number in range(500):
        stream.append("x", answer(number))
    stream.finish(StopReason.TOKEN_LIMIT)
    for reader in readers:
        reader.join(timeout=10.0)
    assert received == [list(range(500))] * 3
    assert stream.wait(timeout=0.0)


def test_waiting_for_a_stream_that_does_not_end_comes_back() -> None:
    assert not Stream().wait(timeout=0.01)


def test_a_place_in_line_is_forgotten_at_the_end() -> None:
    stream = Stream()
    stream.set_queue_position(3, 1.5)
    assert stream.snapshot().queue_position == 3
    assert stream.snapshot().expected_wait_seconds == 1.5
    stream.cancel()
    assert stream.is_cancelled and not stream.is_done, "cancelling asks; the engine ends"
    stream.finish(StopReason.STOPPED)
    assert stream.snapshot().queue_position == 0
    assert stream.snapshot().expected_wait_seconds is None


def test_the_engine_hears_of_a_cancel_until_the_end() -> None:
    stream = Stream()
    heard: list[str] = []
    stream.on_cancel(lambda: heard.append("cancel"))
    stream.cancel()
    assert heard == ["cancel"]
    stream.finish(StopReason.STOPPED)
    stream.cancel()
    assert heard == ["cancel"]
