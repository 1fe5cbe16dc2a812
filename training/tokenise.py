"""Tokenise a stream of documents on several cores, in order.

The same documents give the same tokens whatever the number of processes: groups of documents go out
and come back in one order. A short text is done in this process, for starting others takes longer.
Knows nothing of windows and files.
"""

import hashlib
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait

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
    # Spawned, not forked: the threads of torch and of the tokenizer do not survive a fork.
    pool = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin_worker,
        initargs=(tokenizer.to_str(), end_token),
    )
    under_way: deque[Future[TokenGroup]] = deque()
    try:
        for group in groups:
            under_way.append(pool.submit(_encode_in_worker, group))
            if len(under_way) == num_workers * GROUPS_PER_WORKER:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "A process that tokenises text was ended from outside, perhaps for want of memory. "
            "Finished shards are kept; resume the run to go on after them."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# The encoder of a worker process; a pool hands its workers nothing but functions of a module.
_worker_encoders: list[DocumentEncoder] = []


def _begin_worker(tokenizer: str, end_token: int) -> None:
    """Make this process's encoder; outlive a signal meant for the run, but not the run itself."""
    os.setpgrp()  # Ctrl-C and a stop go to the run's group: it decides, and ends its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
    _worker_encoders[:] = [DocumentEncoder(Tokenizer.from_str(tokenizer), end_token)]


def _end_with(sentinel: int) -> None:
    """End this process when the one that started it has ended, even by a kill."""
    wait([sentinel])
    os._exit(1)


def _encode_in_worker(group: list[str]) -> TokenGroup:
    return _encode(_worker_encoders[0], group)
