"""Tickets and the desk: who is stopped by what, and how often pages are updated."""

from stentor.engine.stream import Stream
from stentor.ui.compare_desk import UPDATE_SECONDS, UPDATES_PER_SECOND, Desk, Ticket


def test_a_side_that_was_stopped_before_it_started_is_cancelled_at_its_start() -> None:
    ticket = Ticket()
    ticket.stop(("left",))
    left, right = Stream(), Stream()
    ticket.start("left", left)
    ticket.start("right", right)
    assert left.is_cancelled and not right.is_cancelled
    ticket.stop()
    assert right.is_cancelled


def test_a_browser_has_one_ticket_and_stops_only_its_own() -> None:
    desk = Desk()
    mine, yours = desk.open("me"), desk.open("you")
    streams = [Stream() for _ in range(3)]
    mine.start("left", streams[0])
    yours.start("left", streams[1])
    desk.stop("me")
    assert [stream.is_cancelled for stream in streams[:2]] == [True, False]
    newer = desk.open("you")
    assert streams[1].is_cancelled, "a newer press of Generate ends the one before"
    assert desk.is_current("you", newer) and not desk.is_current("you", yours)
    desk.close("you", yours)  # the older one's end
    assert desk.is_current("you", newer)
    newer.start("right", streams[2])
    desk.close("you", newer)
    assert streams[2].is_cancelled and not desk.is_current("you", newer)


def test_many_pages_share_a_bounded_number_of_updates() -> None:
    """Thirty pages at ten updates a second once took a third of the time that decoding had."""
    desk = Desk()
    assert desk.pace == UPDATE_SECONDS
    tickets = {name: desk.open(name) for name in map(str, range(30))}
    assert len(tickets) / desk.pace <= UPDATES_PER_SECOND
    for name, ticket in tickets.items():
        desk.close(name, ticket)
    assert desk.pace == UPDATE_SECONDS
