"""Who is in the room: those who wait, those who hold a slot. Thread-safe.

Front ends come in, change their minds and ask how many there are; the worker asks whose turn it is
and shows people out. It knows neither decoder nor tokens.
"""

import math
import time
from collections import deque
from functools import partial
from threading import Condition

from stentor.engine.requests import Job
from stentor.engine.scheduler import FairQueue
from stentor.engine.stream import StopReason
from stentor.errors import BusyError, ModelError

# Beyond these nobody wants to wait; they bound what a flood of requests costs.
MAX_WAITING = 256
MAX_WAITING_PER_SESSION = 64
# How many of the last requests tell how long the next ones will take.
NUM_RECENT = 32


class Room:
    """The requests of one engine, `num_slots` of them with a slot."""

    def __init__(self, num_slots: int) -> None:
        self._changed = Condition()  # guards everything below
        self._queue: FairQueue[Job] = FairQueue()
        self._active: list[Job] = []  # the longest here first
        self._free_slots = list(range(num_slots))
        self._recent_seconds: deque[float] = deque(maxlen=NUM_RECENT)
        self._is_closed = False

    @property
    def num_requests(self) -> int:
        """Return how many requests hold a slot or wait."""
        with self._changed:
            return len(self._active) + len(self._queue)

    @property
    def num_free_slots(self) -> int:
        """Return how many slots nobody holds."""
        return len(self._free_slots)

    @property
    def is_closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._is_closed

    def add(self, job: Job) -> None:
        """Put a request in line.

        Raises:
            BusyError: too many requests wait, in all or of this session.
            ModelError: the room was closed.
        """
        with self._changed:
            if self._is_closed:
                raise ModelError("This model was closed to make room. Load it again.")
            self._refuse_a_flood(job.session)
            job.stream.on_cancel(partial(self._let_go, job))
            self._queue.add(job.session, job)
            self._number_the_queue()
            self._changed.notify_all()

    def wait_for_work(self) -> bool:
        """Wait until somebody is here; return False once the room is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._active or len(self._queue))
            return not self._is_closed

    def next_turn(self) -> list[Job]:
        """Show out who must not stay, let in who may come; return those with a slot."""
        now = time.perf_counter()
        with self._changed:
            if self._is_closed:
                return []
            for job in [job for job in self._active if _must_leave(job, now)]:
                self._end(job, _reason_to_leave(job))
            num_waiting = len(self._queue)
            for job in [job for job in self._queue if _must_leave(job, now)]:
                self._queue.remove(job.session, job)
                job.stream.finish(_reason_to_leave(job))
            self._admit(now)
            if len(self._queue) != num_waiting:
                self._number_the_queue()
            return self._active.copy()

    def leave(self, job: Job, reason: StopReason, error: str | None = None) -> None:
        """Free the slot of a request and end its stream."""
        with self._changed:
            self._end(job, reason, error)

    def fail_active(self, error: str) -> int:
        """End everyone who holds a slot, or all who wait where nobody does; return how many.

        A worker that fails before anyone has a slot would fail for ever.
        """
        with self._changed:
            lost = self._active.copy()
            for job in lost:
                self._end(job, StopReason.FAILED, error)
            return len(lost) or self._dismiss(StopReason.FAILED, error)

    def close(self) -> None:
        """Refuse newcomers and send home who waits; who holds a slot is shown out by the worker."""
        with self._changed:
            self._is_closed = True
            self._dismiss(StopReason.STOPPED)
            self._changed.notify_all()

    def end_active(self) -> None:
        """End everyone who holds a slot: the room was closed."""
        with self._changed:
            for job in self._active.copy():
                self._end(job, StopReason.STOPPED)

    def _refuse_a_flood(self, session: str) -> None:
        num_waiting, own = len(self._queue), self._queue.num_waiting(session)
        if own >= MAX_WAITING_PER_SESSION:
            text = f"{own} of your requests are waiting already, the most for one visitor."
        elif num_waiting >= MAX_WAITING:
            text = f"{num_waiting} requests are waiting already, the most for this model."
        else:
            return
        seconds = self._seconds_per_place()
        wait = 60.0 if seconds is None else num_waiting * seconds
        raise BusyError(f"{text} Try again in about {math.ceil(wait)} s.")

    def _let_go(self, job: Job) -> None:
        """End a cancelled request at once if it waits; the worker ends it if it has a slot."""
        with self._changed:
            if self._queue.remove(job.session, job):
                job.stream.finish(StopReason.STOPPED)
                self._number_the_queue()

    def _admit(self, now: float) -> None:
        """Give free slots to those who wait."""
        while self._free_slots:
            job = self._queue.take(len(self._free_slots))
            if job is None:
                break
            job.slot, job.slot_since = self._free_slots.pop(), now
            job.stream.set_queue_position(0)
            self._active.append(job)

    def _end(self, job: Job, reason: StopReason, error: str | None = None) -> None:
        self._active.remove(job)
        self._free_slots.append(job.slot)
        self._queue.give_back(job.session)
        self._recent_seconds.append(time.perf_counter() - job.slot_since)
        job.stream.finish(reason, error)

    def _dismiss(self, reason: StopReason, error: str | None = None) -> int:
        waiting = list(self._queue)
        for job in waiting:
            self._queue.remove(job.session, job)
            job.stream.finish(reason, error)
        return len(waiting)

    def _number_the_queue(self) -> None:
        seconds = self._seconds_per_place()
        for position, job in enumerate(self._queue, start=1):
            wait = None if seconds is None else position * seconds
            job.stream.set_queue_position(position, wait)

    def _seconds_per_place(self) -> float | None:
        """Return how often slots became free lately. None: not known yet."""
        if not self._recent_seconds or not self._active:
            return None
        mean = math.fsum(self._recent_seconds) / len(self._recent_seconds)
        return mean / len(self._active)


def _must_leave(job: Job, now: float) -> bool:
    return job.stream.is_cancelled or now >= job.deadline


def _reason_to_leave(job: Job) -> StopReason:
    return StopReason.STOPPED if job.stream.is_cancelled else StopReason.DEADLINE
