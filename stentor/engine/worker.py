"""The thread that steps the decoder for everyone who has a slot.

Each step reads one token of everyone who is generating and a bounded part of the prompts. What goes
wrong with one request ends that one alone. A decoder that breaks is replaced: those who were being
served are lost and told so, those who wait are served by the new one.
"""

import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread

from stentor.engine.decoder import Answer, Decoder, Piece
from stentor.engine.requests import Job
from stentor.engine.room import Room
from stentor.engine.scheduler import PromptTurns
from stentor.engine.stream import StopReason
from stentor.engine.threads import ThreadBudget
from stentor.errors import StentorError


class Worker:
    """Owns the decoder; serves the room until it is closed."""

    def __init__(
        self, room: Room, decoder: Decoder, reopen: Callable[[], Decoder], threads: ThreadBudget
    ) -> None:
        """`reopen` makes another decoder like the given one, should that break."""
        self._room = room
        self._decoder: Decoder | None = decoder
        self._reopen = reopen
        self._threads = threads
        self._prompt_turns = PromptTurns()
        self._lock = Lock()  # guards the thread
        self._thread: Thread | None = None
        # Not Thread.join: in Python 3.11 one that a Ctrl-C interrupts takes the thread for ended.
        self._has_ended = Event()

    def wake(self) -> None:
        """Make sure that the thread runs: from the first request on."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._run, name="stentor-engine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait until the thread has ended and the decoder is closed; the room is closed already."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._end()
        self._has_ended.wait()

    def _run(self) -> None:
        """Serve, whatever happens, until the room is closed."""
        while not self._has_ended.is_set():
            try:
                self._serve()
            except BaseException as problem:  # noqa: BLE001 - a thread that dies would hang the room
                self._recover(problem)
            else:
                self._end()

    def _end(self) -> None:
        self._room.end_active()
        self._close_decoder()
        self._has_ended.set()

    def _serve(self) -> None:
        while self._room.wait_for_work():
            if self._decoder is None:
                self._decoder = self._reopen()
            with self._threads.busy():
                while jobs := self._room.next_turn():
                    self._step(self._decoder, jobs)

    def _step(self, decoder: Decoder, jobs: Sequence[Job]) -> None:
        """Advance everyone who generates by a token, and some of those whose prompt is read."""
        pieces = [(job, job.next_piece(1)) for job in jobs if job.num_unread == 1]
        readers = [job for job in jobs if job.num_unread > 1]
        if readers:
            for job, share in self._prompt_turns.shares(readers):
                pieces.append((job, job.next_piece(share)))
        outcomes = _read(decoder, [piece for _, piece in pieces])
        for (job, piece), outcome in zip(pieces, outcomes, strict=True):
            self._deliver(job, piece, outcome)

    def _deliver(self, job: Job, piece: Piece, outcome: Sequence[Answer] | Exception) -> None:
        """Give a request what was answered; whatever goes wrong with it ends it alone."""
        error: str | None = None
        try:
            if isinstance(outcome, Exception):
                raise outcome
            # Nobody gets a token after having said stop.
            is_unwanted = job.stream.is_cancelled
            reason = StopReason.STOPPED if is_unwanted else job.receive(piece, outcome)
        except Exception as problem:  # noqa: BLE001 - the other requests must go on
            reason, error = StopReason.FAILED, _described(problem)
            if not isinstance(problem, StentorError):
                _print(f"A request failed: {error} {_where(problem)}")
        if reason is not None:
            self._room.leave(job, reason, error)

    def _recover(self, problem: BaseException) -> None:
        """Tell those who are lost; nobody knows what the old decoder still holds."""
        error = _described(problem)
        if not isinstance(problem, StentorError):  # which says itself what to do
            error += " The model is started again: send the request once more."
        num_lost = self._room.fail_active(error)
        self._close_decoder()
        _print(
            f"The worker of a model stopped; requests lost: {num_lost}. {error} {_where(problem)}"
        )

    def _close_decoder(self) -> None:
        decoder, self._decoder = self._decoder, None
        if decoder is None:
            return
        try:
            decoder.close()
        except Exception as problem:  # noqa: BLE001 - it may be broken; nothing is left to save
            _print(f"A decoder could not be closed. {_described(problem)} {_where(problem)}")


def _read(decoder: Decoder, pieces: list[Piece]) -> list[Sequence[Answer] | Exception]:
    """Return each piece's answers, or what went wrong with that piece alone.

    A step that raises has answered nobody. Its pieces are read again one by one, so that only the
    one at fault is lost; where none can be read, the decoder itself is broken.

    Raises:
        Exception: as the decoder raised it: it is broken.
    """
    try:
        return list(decoder.step(pieces))
    except Exception as problem:
        if len(pieces) == 1:
            raise
        outcomes = [_read_alone(decoder, piece) for piece in pieces]
        if all(isinstance(outcome, Exception) for outcome in outcomes):
            raise problem
        return outcomes


def _read_alone(decoder: Decoder, piece: Piece) -> Sequence[Answer] | Exception:
    try:
        return decoder.step([piece])[0]
    except Exception as problem:  # noqa: BLE001 - told to the one whose piece this is
        return problem


def _described(problem: BaseException) -> str:
    """Return what a user reads of a failure."""
    if isinstance(problem, StentorError):
        return str(problem)
    return f"The engine failed ({type(problem).__name__}: {str(problem)[:200]})."


def _where(problem: BaseException) -> str:
    """Return the place of a failure, as a line of a log tells it."""
    frames = traceback.extract_tb(problem.__traceback__)
    return f"[{Path(frames[-1].filename).name}:{frames[-1].lineno}]" if frames else ""


def _print(line: str) -> None:
    with suppress(OSError, ValueError):  # an error stream that was closed must not end the worker
        print(" ".join(line.split()), file=sys.stderr, flush=True)
