"""Who is generating in the Compare tab: so that Stop finds it, and thirty pages are not too many.

Knows streams only to cancel them, and no widgets.
"""

from threading import Lock

from stentor.engine.stream import Stream

SIDES = ("left", "right")
# Updates of a page: often enough to look continuous.
UPDATE_SECONDS = 0.1
# Of all pages together. Each costs Gradio some 2 ms of Python, in which no model can go on.
UPDATES_PER_SECOND = 60


class Ticket:
    """One press of Generate: the streams of its sides as they start, and who was told to stop.

    A side may be stopped before its model is loaded: whichever of stopping and starting comes
    second sees the other.
    """

    def __init__(self) -> None:
        self.streams: dict[str, Stream] = {}
        self._stopped: set[str] = set()

    def start(self, side: str, stream: Stream) -> None:
        """Register a side's stream, unless the side was stopped meanwhile."""
        self.streams[side] = stream
        if side in self._stopped:
            stream.cancel()

    def stop(self, sides: tuple[str, ...] = SIDES) -> None:
        """Cancel these sides; the engine frees them before the next token."""
        self._stopped.update(sides)
        for side in sides:
            if side in self.streams:
                self.streams[side].cancel()


class Desk:
    """Which ticket belongs to which browser; so that Stop finds it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tickets: dict[str, Ticket] = {}

    def open(self, session: str) -> Ticket:
        """Return a new ticket for a browser; the one it had before is stopped."""
        ticket = Ticket()
        with self._lock:
            earlier = self._tickets.pop(session, None)
            self._tickets[session] = ticket
        if earlier is not None:
            earlier.stop()
        return ticket

    def is_current(self, session: str, ticket: Ticket) -> bool:
        """Tell whether the browser still waits for this ticket and not for a newer one."""
        with self._lock:
            return self._tickets.get(session) is ticket

    @property
    def pace(self) -> float:
        """Return the seconds between two updates of one page, with as many as there are now."""
        with self._lock:
            return max(UPDATE_SECONDS, len(self._tickets) / UPDATES_PER_SECOND)

    def stop(self, session: str, sides: tuple[str, ...] = SIDES) -> None:
        """Stop these sides of a browser's generation, if it has one."""
        with self._lock:
            ticket = self._tickets.get(session)
        if ticket is not None:
            ticket.stop(sides)

    def close(self, session: str, ticket: Ticket) -> None:
        """Forget a ticket, stopping what still goes on."""
        with self._lock:
            if self._tickets.get(session) is ticket:
                del self._tickets[session]
        ticket.stop()
