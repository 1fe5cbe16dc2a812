"""The waiting room: sessions take turns."""

from stentor.engine.scheduler import FairQueue


def filled(*entries: str) -> FairQueue[str]:
    """Return a queue with entries such as 'a1': session a, request 1."""
    queue: FairQueue[str] = FairQueue()
    for entry in entries:
        queue.add(entry[0], entry)
    return queue


def drained(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_session_is_served_in_the_order_it_asked() -> None:
    assert drained(filled("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_a_session_with_many_requests_does_not_starve_the_others() -> None:
    queue = filled("a1", "a2", "a3", "a4", "b1", "c1", "c2")
    assert list(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]
    assert drained(queue) == ["a1", "b1", "c1", "a2", "c2", "a3", "a4"]


def test_whoever_was_served_goes_behind_those_who_came_meanwhile() -> None:
    queue = filled("a1", "a2", "a3")
    assert queue.pop() == "a1"
    queue.add("b", "b1")
    assert queue.pop() == "a2"
    assert queue.pop() == "b1"
    assert queue.pop() == "a3"


def test_removing_out_of_turn() -> None:
    queue = filled("a1", "a2", "b1")
    queue.remove("a1")
    queue.remove("b1")
    queue.remove("b1")
    assert list(queue) == ["a2"]
    queue.remove("a2")
    assert len(queue) == 0 and list(queue) == []
