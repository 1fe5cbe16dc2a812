"""Messages about runs to a webhook: a chat, a phone, a script of one's own. Standard library only.

STENTOR_WEBHOOK in the environment is the address, and a secret: it stands in no file, no log, no
event and no message here. A message is a POST of JSON; `text` is what Slack shows and `content`
what Discord and its like show. It never holds anything up and never ends anything: it is sent from
a thread, tried a few times, and given up with one line in the log.
"""

import json
import math
import os
import queue
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.client import HTTPException, HTTPMessage
from threading import Thread
from typing import IO, Any
from urllib.parse import urlsplit

from stentor.errors import OptionError
from stentor.runs import Run, Status

WEBHOOK_VARIABLE = "STENTOR_WEBHOOK"
SECONDS = 5.0  # that a receiver has for an answer
PAUSES = (0.0, 1.0, 3.0)  # seconds before each try
CLOSING_SECONDS = 4.0  # that the end of a process waits for its last message
MOST_WAITING = 100  # messages; more than that nobody wants to be sent at once
MOST_CHARACTERS = 1_800  # of a text: Discord takes 2,000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Message:
    """What is told: an alarm of a run, or (`alarm` is `end`) how the run ended.

    `state`: raised or cleared; at an end finished, stopped, failed or died.
    """

    run: str
    alarm: str
    state: str
    message: str
    stage: str | None = None
    step: int = 0
    value: float | None = None
    limit: float | None = None
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    host: str = field(default_factory=socket.gethostname)

    def text(self) -> str:
        """Return the message as one line for people."""
        if self.alarm == "end":
            return f"Run {self.run} on {self.host}: {self.state}. {self.message}".rstrip()
        word = "Alarm" if self.state == "raised" else "Alarm over"
        return f"{word} ({self.alarm}) in run {self.run} on {self.host}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Return what is sent; JSON has no NaN, so a number that is none becomes null."""
        values = asdict(self)
        for name in ("value", "limit"):
            if values[name] is not None and not math.isfinite(values[name]):
                values[name] = None
        text = self.text()[:MOST_CHARACTERS]
        # A message can quote a name or a text of a user: it must not call a whole channel.
        safe = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return {**values, "text": safe, "content": text, "allowed_mentions": {"parse": []}}


def webhook_address(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return where messages go; None: nobody wants any.

    Raises:
        OptionError: it is no http or https address. The error does not repeat it.
    """
    address = environment.get(WEBHOOK_VARIABLE, "").strip()
    if not address:
        return None
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and (parts.port is None or parts.port > 0)
    except ValueError:
        is_address = False
    if not is_address or not address.isascii() or any(c.isspace() or c < " " for c in address):
        raise OptionError(
            f"{WEBHOOK_VARIABLE} is no address that starts with http:// or https:// and names a "
            "host, so nobody is told of alarms. (It is a secret, so it is not shown here.)"
        )
    return address


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A webhook that moved is a mistake to be told: a redirected POST would lose its message."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow nothing."""


def post(address: str, message: Message, seconds: float = SECONDS) -> str | None:
    """Send one message; return what went wrong in words that hold no address, None: it is there."""
    request = urllib.request.Request(
        address,
        data=json.dumps(message.to_json(), allow_nan=False).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "stentor"},
        method="POST",
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answers with HTTP status {error.code}"
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except urllib.error.URLError as error:
        return f"it cannot be reached ({type(error.reason).__name__})"
    except (OSError, HTTPException, ValueError) as error:
        return f"it cannot be reached ({type(error).__name__})"


class Notifier:
    """Sends messages in their order from a thread of its own; without an address it sends nothing.

    The thread starts with the first message, and ends with the process, whatever it is doing.
    """

    def __init__(
        self,
        address: str | None,
        say: Say,
        *,
        seconds: float = SECONDS,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        self._address, self._say = address, say
        self._seconds, self._pauses = seconds, pauses
        self._waiting: queue.Queue[Message | None] = queue.Queue(MOST_WAITING)
        self._thread: Thread | None = None
        self._problem: str | None = None

    def tell(self, message: Message) -> None:
        """Leave a message to be sent, and return at once; where too many wait it is dropped."""
        if self._address is None:
            return
        if self._thread is None:
            self._thread = Thread(target=self._send_all, name="stentor-notify", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(message)
        except queue.Full:
            self._tell_problem("too many messages wait")

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """Give the messages that wait some seconds to be sent; what is left then is given up."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _send_all(self) -> None:
        assert self._address is not None
        while (message := self._waiting.get()) is not None:
            problem = None
            for pause in self._pauses:
                time.sleep(pause)
                problem = post(self._address, message, self._seconds)
                if problem is None:
                    break
            self._tell_problem(problem)

    def _tell_problem(self, problem: str | None) -> None:
        """Say what is wrong once, not for every message; a success makes the next one news."""
        if problem and problem != self._problem:
            self._say(f"The webhook was not told: {problem}.")
        self._problem = problem


def open_notifier(say: Say) -> tuple[Notifier, str | None]:
    """Return the notifier of STENTOR_WEBHOOK, and what is wrong with the address, if anything.

    To be told when a process starts: at the first alarm it would be too late.
    """
    try:
        return Notifier(webhook_address(), say), None
    except OptionError as error:
        return Notifier(None, say), str(error)


def tell_end(notifier: Notifier, run: Run, status: Status) -> None:
    """Tell how a run ended: finished, stopped, failed, or died, which only others can notice."""
    place = f"At step {status.step:,} of {status.stage}." if status.stage else ""
    notifier.tell(
        Message(
            run.id,
            "end",
            status.state,
            status.error or place,
            stage=status.stage,
            step=status.step,
        )
    )
