"""Tokenise a stream of documents on several cores, in order.

The same documents give the same tokens whatever the number of processes: groups of documents go out
and come back in one order. A short text is done in this process, for starting others takes longer.
Knows nothing of windows and files.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from stentor.errors import DataError
from stentor.provenance import num_cores
from training.encoding import DocumentEncoder, Tokens

# One document in so many is never trained on. Changing it puts held-out text into training.
HELD_OUT_SHARE = 32
# A group of documents that travels to a process and back, whichever is reached first.
GROUP_CHARACTERS = 1_000_000
GROUP_DOCUMENTS = 4096
# So much text takes this process about as long as other processes take to start.
ALONE_CHARACTERS = 64_000_000
# Groups under way for each process: one in work and one waiting for it.
GROUPS_PER_WORKER = 2


@dataclass(frozen=True)
class TokenGroup:
    """Some documents in a row: their tokens, each document's with an end, one after the other."""

    tokens: Tokens  # (sum of lengths,)
    lengths: NDArray[np.int64]  # (documents,); a blank document has none
    is_held_out: NDArray[np.bool_]  # (documents,)
    num_characters: int


def tokenise(
    documents: Iterator[str],
    tokenizer: Tokenizer,
    end_token: int,
    *,
    num_workers: int | None = None,
) -> Generator[TokenGroup]:
    """Yield the tokens of groups of documents, in the order of the documents.

    `num_workers`: processes that tokenise, by default one for each core; 1 is this process alone.
    About `2 * num_workers` groups are held at once, however long the stream is.

    Raises:
        DataError: a process was killed, most often for want of memory.
    """
    groups = document_groups(documents)
    encoder = DocumentEncoder(tokenizer, end_token)
    num_workers = num_workers or num_cores()
    num_characters = 0
    for group in groups:
        encoded = _encode(encoder, group)
        num_characters += encoded.num_characters
        yield encoded
        if num_workers > 1 and num_characters >= ALONE_CHARACTERS:
            yield from _in_processes(groups, tokenizer, end_token, num_workers)


def is_held_out(document: str) -> bool:
    """Tell whether a document is for validation only: the same answer in every stage and run."""
    digest = hashlib.blake2b(document.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_SHARE == 0


def document_groups(documents: Iterator[str]) -> Iterator[list[str]]:
    """Yield the documents in lists of a bounded size."""
    group: list[str] = []
    held = 0
    for document in documents:
        group.append(document)
        held += len(document)
        if held >= GROUP_CHARACTERS or len(group) == GROUP_DOCUMENTS:
            yield group
            group, held = [], 0
    if group:
        yield group


def _encode(encoder: DocumentEncoder, group: list[str]) -> TokenGroup:
    tokens, lengths = encoder.encode(group)
    held_out = np.fromiter(map(is_held_out, group), np.bool_, len(group))
    return TokenGroup(tokens, lengths, held_out, sum(map(len, group)))


def _in_processes(
    groups: Iterator[list[str]], tokenizer: Tokenizer, end_token: int, num_workers: int
) -> Iterator[TokenGroup]:
    """Yield the tokens of groups that other processes encode.

    Not a ProcessPoolExecutor: that waits for ever, in some versions of Python, when a process is
    killed while something large is written to it.
    """
    under_way: deque[Future[TokenGroup]] = deque()
    workers: SimpleQueue[_Worker] = SimpleQueue()

    def encode(group: list[str]) -> TokenGroup:
        worker = workers.get()
        try:
            return worker.encode(group)
        finally:
            workers.put(worker)

    with ExitStack() as stack:
        # Left from the last to the first: nothing more is asked, processes end, threads see that.
        asking = stack.enter_context(ThreadPoolExecutor(num_workers))
        started = [stack.enter_context(closing(_Worker())) for _ in range(num_workers)]
        stack.callback(asking.shutdown, wait=False, cancel_futures=True)
        for worker in started:
            worker.begin(tokenizer.to_str(), end_token)
            workers.put(worker)
        for group in groups:
            under_way.append(asking.submit(encode, group))
            if len(under_way) == num_workers * GROUPS_PER_WORKER:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


class _Worker:
    """A process that encodes, one group at a time.

    Raises:
        DataError: the process is gone.
    """

    def __init__(self) -> None:
        """Start it; it is ready after `begin`."""
        # Spawned, not forked: the threads of torch and of the tokenizer do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), daemon=True)
        # A Ctrl-C and a stop go to the run, which answers in its own time and ends its workers. One
        # that starts inherits that these signals are held back, and leaves them so.
        resource_tracker.ensure_running()  # starting that of multiprocessing lets signals through
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # so that the end of the process is the end of the channel

    def begin(self, tokenizer: str, end_token: int) -> None:
        """Hand over what it encodes with."""
        with _while_it_lives():
            self._channel.send((tokenizer, end_token))

    def encode(self, group: list[str]) -> TokenGroup:
        """Return the tokens of some documents."""
        with _while_it_lives():
            self._channel.send(group)
            encoded: TokenGroup = self._channel.recv()
            return encoded

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.join()


@contextmanager
def _while_it_lives() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise DataError(
            "A process that tokenises text was ended from outside, perhaps for want of memory. "
            "Finished shards are kept; resume the run to go on after them."
        ) from error


def _work(channel: Connection) -> None:
    """Encode the groups that come through the channel; outlive no run, not even a killed one."""
    os.setpgrp()
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
    try:
        tokenizer, end_token = channel.recv()
        encoder = DocumentEncoder(Tokenizer.from_str(tokenizer), end_token)
        while True:
            channel.send(_encode(encoder, channel.recv()))
    except (EOFError, ConnectionError):  # the run is gone
        return


def _end_with(sentinel: int) -> None:
    """End this process when the one that started it has ended, even by a kill."""
    wait([sentinel])
    os._exit(1)
