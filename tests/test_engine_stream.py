"""A stream: what readers see while it runs, at its end, and from other threads."""

from threading import Thread

from stentor.engine.stream import StopReason, Stream


def test_a_fresh_stream_has_nothing_to_measure() -> None:
    snapshot = Stream().snapshot()
    assert (snapshot.text, snapshot.token_ids, snapshot.num_tokens) == ("", (), 0)
    assert snapshot.seconds_to_first_token is None and snapshot.tokens_per_second is None
    assert not snapshot.is_done and snapshot.stop_reason is None and snapshot.error is None


def test_snapshot_and_records_tell_the_same() -> None:
    stream = Stream()
    stream.append(5, " the", -0.5)
    stream.append(6, "", -1.5)
    stream.append(7, "é", -2.5)
    stream.finish(StopReason.TOKEN_LIMIT)
    snapshot = stream.snapshot()
    assert snapshot.text == " theé" == "".join(record.text for record in stream.tokens)
    assert snapshot.token_ids == (5, 6, 7)
    assert snapshot.seconds_to_first_token == stream.tokens[0].seconds
    span = stream.tokens[-1].seconds - stream.tokens[0].seconds
    assert snapshot.tokens_per_second == 2 / span
    assert snapshot.is_done and snapshot.stop_reason is StopReason.TOKEN_LIMIT


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
        stream.append(number, "x", 0.0)
    stream.finish(StopReason.TOKEN_LIMIT)
    for reader in readers:
        reader.join(timeout=10.0)
    assert received == [list(range(500))] * 3
    assert stream.wait(timeout=0.0)


def test_waiting_for_a_stream_that_does_not_end_comes_back() -> None:
    assert not Stream().wait(timeout=0.01)


def test_a_place_in_line_is_forgotten_at_the_end() -> None:
    stream = Stream()
    stream.set_queue_position(3)
    assert stream.snapshot().queue_position == 3
    stream.cancel()
    assert stream.is_cancelled and not stream.is_done, "cancelling asks; the engine ends"
    stream.finish(StopReason.STOPPED)
    assert stream.snapshot().queue_position == 0
