"""Whose turn it is: who gets a free slot, and how much of whose prompt a step reads.

Slots. The session that holds the fewest comes first; of equal ones, the one that was served longest
ago. A session that holds some leaves as many free for whoever comes next (the dynamic threshold of
Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998): alone it gets half of the
slots, and a newcomer finds one free. One browser that asks for twenty texts delays nobody.

Prompts. A step takes one token of everyone who is generating, so that no stream stalls, and prompt
tokens up to a budget. One piece goes to the sessions in turns, the oldest prompt of a session
first: nobody starves, however many short prompts arrive. The rest goes to the shortest prompts
first, which gives most people their first token soonest.

Nothing here knows threads, streams or models.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

# Of one prompt and of all prompts in one step. A step on a laptop takes a millisecond a token.
PIECE_TOKENS = 64
PROMPT_TOKENS_PER_STEP = 128

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Who waits for a slot, by session, and how many slots each session holds. Not thread-safe."""

    def __init__(self) -> None:
        # Of those who wait; the session served longest ago, or the first to come, is the first.
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()
        self._num_waiting = 0
        self._held: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._num_waiting

    def __iter__(self) -> Iterator[Item]:
        """Yield those who wait in the order in which they would get slots."""
        places = [
            (self._held[session] + place, turn, item)
            for turn, (session, items) in enumerate(self._waiting.items())
            for place, item in enumerate(items)
        ]
        places.sort(key=lambda entry: entry[:2])
        return iter([item for _, _, item in places])

    def num_waiting(self, session: str) -> int:
        """Return how many of a session's requests wait."""
        return len(self._waiting.get(session, ()))

    def add(self, session: str, item: Item) -> None:
        """Put an item at the end of its session's queue; a new session is the last in turn."""
        self._waiting.setdefault(session, deque()).append(item)
        self._num_waiting += 1

    def take(self, num_free: int) -> Item | None:
        """Give one of `num_free` slots away; None where nobody waits or may have one."""
        if not self._waiting or not num_free:
            return None
        session = min(self._waiting, key=self._held.__getitem__)  # of equal ones the first
        if 0 < self._held[session] >= num_free:
            return None
        item = self._waiting[session].popleft()
        self._num_waiting -= 1
        self._held[session] += 1
        if self._waiting[session]:
            self._waiting.move_to_end(session)
        else:
            del self._waiting[session]
        return item

    def give_back(self, session: str) -> None:
        """Take note that a session holds one slot less; it was served, others come before it."""
        self._held[session] -= 1
        if not self._held[session]:
            del self._held[session]
        if session in self._waiting:
            self._waiting.move_to_end(session)

    def remove(self, session: str, item: Item) -> bool:
        """Let someone leave who waits; return whether it did wait."""
        items = self._waiting.get(session, deque())
        if item not in items:
            return False
        items.remove(item)
        self._num_waiting -= 1
        if not items:
            del self._waiting[session]
        return True


class Reader(Protocol):
    """What a turn at reading depends on."""

    session: str

    @property
    def num_unread(self) -> int:
        """How many tokens are still to be read."""


AnyReader = TypeVar("AnyReader", bound=Reader)


class PromptTurns:
    """Divides the prompt tokens of each step. Not thread-safe."""

    def __init__(self) -> None:
        self._sessions: list[str] = []  # who reads a prompt; the first has the next turn

    def shares(self, readers: Sequence[AnyReader]) -> list[tuple[AnyReader, int]]:
        """Return who of the readers, oldest first, reads how many tokens in this step."""
        present = {reader.session: reader for reader in reversed(readers)}  # the oldest of each
        known = [session for session in self._sessions if session in present]
        new = [session for session in reversed(present) if session not in known]
        self._sessions = known + new
        if not self._sessions:
            return []
        session = self._sessions.pop(0)
        self._sessions.append(session)
        first = present[session]
        others = sorted(readers, key=lambda reader: reader.num_unread)
        budget, result = PROMPT_TOKENS_PER_STEP, []
        for reader in (first, *(other for other in others if other is not first)):
            share = min(reader.num_unread, PIECE_TOKENS, budget)
            if not share:
                break
            result.append((reader, share))
            budget -= share
        return result
