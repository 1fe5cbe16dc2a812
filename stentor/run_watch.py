"""A thread of the app that keeps the line of runs going and tells of runs that die.

A run that ends starts the next one itself; after a `kill -9`, or a restart of the machine, this
does. It writes nothing about a death: readers see it for themselves. Knows no page.
"""

import sys
from threading import Event, Thread

from stentor.errors import StentorError
from stentor.jobs import ACTIVE_STATES
from stentor.notify import Notifier, open_notifier, tell_end
from stentor.run_queue import start_next
from stentor.runs import Run, current_status, list_runs

WATCH_SECONDS = 2.0


class RunWatch:
    """Starts what is next in line every two seconds, and tells once of each run that died.

    Only a run that this watch saw going is told of: an older death is no news, and any other ending
    is told by the trainer itself.
    """

    def __init__(self, notifier: Notifier, seconds: float = WATCH_SECONDS) -> None:
        self._notifier, self._seconds = notifier, seconds
        self._going: set[Run] = set()
        self._problem = ""
        self._is_closed = Event()
        self._thread = Thread(target=self._watch, name="stentor-run-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the watch; returns once its thread is over and its last message was tried."""
        self._is_closed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._notifier.close()

    def _watch(self) -> None:
        while not self._is_closed.is_set():
            problem = ""
            try:
                self.look()
            except (StentorError, OSError) as error:  # such as a full disk, which may pass
                problem = f"The line of runs waits: {error}"
            if problem and problem != self._problem:
                say(problem)
            self._problem = problem
            self._is_closed.wait(self._seconds)

    def look(self) -> None:
        """Start what is next in line, and tell of runs that died since the last look.

        Raises:
            RunError: the files of a run cannot be written.
        """
        found = {run: current_status(run) for run in list_runs()}
        died = [run for run in self._going if run in found and found[run].state == "died"]
        self._going = {run for run, status in found.items() if status.state in ACTIVE_STATES}
        try:
            start_next()
        finally:
            for run in died:
                say(f"Run {run.id}: {found[run].error}")
                tell_end(self._notifier, run, found[run])


def open_watch() -> RunWatch:
    """Return a watch that tells the webhook of STENTOR_WEBHOOK, if there is one."""
    notifier, problem = open_notifier(say)
    if problem:
        say(problem)
    return RunWatch(notifier)


def say(line: str) -> None:
    """Print a line in the app's terminal."""
    print(line, file=sys.stderr)
