"""The waiting room: bounded, first come first served within a session, sessions take turns.

One browser that asks for twenty texts therefore delays the others by one text each, not by twenty.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue of queues, one per session. Not thread-safe: the engine's lock guards it."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(items) for items in self._sessions.values())

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in the order in which `pop` would return them."""
        queues = [list(items) for items in self._sessions.values()]
        for place in range(max((len(items) for items in queues), default=0)):
            yield from (items[place] for items in queues if place < len(items))

    def add(self, session: str, item: Item) -> None:
        """Put an item at the end of its session's queue; a new session is served last."""
        self._sessions.setdefault(session, deque()).append(item)

    def pop(self) -> Item:
        """Take the next item; its session then waits until all others had a turn."""
        session, items = self._sessions.popitem(last=False)
        item = items.popleft()
        if items:
            self._sessions[session] = items
        return item

    def remove(self, item: Item) -> None:
        """Take an item out of turn."""
        for session, items in self._sessions.items():
            if item in items:
                items.remove(item)
                if not items:
                    del self._sessions[session]
                return
