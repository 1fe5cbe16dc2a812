"""Tokens in the order of the documents, whatever the number of processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer

from stentor.errors import DataError
from training import tokenise as module
from training.generated_text import generate_documents
from training.tokenise import TokenGroup, document_groups, is_held_out, tokenise

END = 0
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


def joined(groups: Iterator[TokenGroup]) -> tuple[list[int], list[int], list[bool], int]:
    """Return all tokens, lengths, marks and the characters."""
    found = list(groups)
    return (
        np.concatenate([group.tokens for group in found]).tolist(),
        np.concatenate([group.lengths for group in found]).tolist(),
        np.concatenate([group.is_held_out for group in found]).tolist(),
        sum(group.num_characters for group in found),
    )


def test_other_processes_give_what_this_one_gives(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = list(islice(generate_documents("general"), 2000))
    alone = joined(tokenise(iter(documents), tokenizer, END, num_workers=1))
    monkeypatch.setattr(module, "ALONE_CHARACTERS", 1000)
    monkeypatch.setattr(module, "GROUP_DOCUMENTS", 70)
    assert joined(tokenise(iter(documents), tokenizer, END, num_workers=2)) == alone
    tokens, lengths, held_out, num_characters = alone
    assert tokens[: lengths[0]] == [*tokenizer.encode(documents[0]).ids, END]
    assert held_out == [is_held_out(document) for document in documents]
    assert num_characters == sum(map(len, documents))


def test_a_short_text_starts_no_process(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_Worker", None)
    assert len(list(tokenise(iter(["a"] * 10), tokenizer, END, num_workers=8))) == 1


def test_a_stream_without_end_is_read_no_further_than_it_is_used(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALONE_CHARACTERS", 1000)
    monkeypatch.setattr(module, "GROUP_CHARACTERS", 2000)
    read: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            read.append(1)
            yield "The river runs past the mill. " * 10

    groups = tokenise(endless(), tokenizer, END, num_workers=1)
    for _ in range(10):
        next(groups)
    groups.close()
    assert len(read) <= 10 * 7
    read.clear()
    groups = tokenise(endless(), tokenizer, END, num_workers=2)
    for _ in range(4):
        next(groups)
    groups.close()
    assert len(read) <= 10 * 7
    assert not workers_of(os.getpid())


def workers_of(process: int) -> list[psutil.Process]:
    """Return the processes that tokenise for another one."""
    children = psutil.Process(process).children(recursive=True)
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_groups_are_bounded_in_documents_and_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 documents of a megabyte at once once took gigabytes of memory to tokenise."""
    monkeypatch.setattr(module, "GROUP_DOCUMENTS", 4)
    monkeypatch.setattr(module, "GROUP_CHARACTERS", 100)
    texts = ["x" * 60] * 3 + ["y"] * 6
    groups = list(document_groups(iter(texts)))
    assert [len(group) for group in groups] == [2, 4, 3]
    assert [text for group in groups for text in group] == texts
    assert list(document_groups(iter([]))) == []


def test_what_is_held_out_depends_on_the_text_alone() -> None:
    texts = [f"word{number} " * (20 + number % 50) for number in range(3000)]
    assert 60 <= sum(map(is_held_out, texts)) <= 130  # about one in 32
    # Another rule would let a new run train on what an old one was validated on.
    assert [number for number in range(100) if is_held_out(texts[number])] == [1, 26, 59, 71]


def test_a_worker_that_is_killed_is_a_message(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALONE_CHARACTERS", 1)
    groups = tokenise(generate_documents("general"), tokenizer, END, num_workers=1 + 1)
    for _ in range(3):
        next(groups)
    workers_of(os.getpid())[0].kill()
    with pytest.raises(DataError, match=r"was ended from outside.*Finished shards are kept"):
        for _ in range(1000):
            next(groups)


TOKENISING = """
import signal
import sys
from tokenizers import Tokenizer
from training import tokenise
from training.generated_text import generate_documents
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    tokenise.ALONE_CHARACTERS = 1
    tokenizer = Tokenizer.from_file(sys.argv[1])
    for _ in tokenise.tokenise(generate_documents("general"), tokenizer, 0, num_workers=2):
        print("group", flush=True)
"""


@pytest.fixture
def tokenising(tiny_model_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that says `group` for each group, the second one by its workers."""
    script = tmp_path / "tokenising.py"
    script.write_text(TOKENISING)
    with subprocess.Popen(
        [sys.executable, str(script), str(tiny_model_folder / "tokenizer.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_workers_end_with_the_process_that_was_killed(tokenising: subprocess.Popen[str]) -> None:
    for _ in range(4):
        assert next_line(tokenising) == "group\n"
    workers = workers_of(tokenising.pid)
    assert len(workers) == 2
    os.killpg(tokenising.pid, signal.SIGINT)  # a Ctrl-C, which the run may answer in its own time
    assert next_line(tokenising) == "group\n"
    assert all(worker.is_running() for worker in workers)
    tokenising.kill()
    tokenising.wait()
    wait_until(lambda: not any(worker.is_running() for worker in workers))


def test_a_stop_while_workers_start_is_left_to_the_run(tokenising: subprocess.Popen[str]) -> None:
    """They died of it, and the run hung for ever in what it wanted to tell them."""
    wait_until(lambda: bool(workers_of(tokenising.pid)))
    os.killpg(tokenising.pid, signal.SIGINT)
    for _ in range(4):
        assert next_line(tokenising) == "group\n"


def test_a_worker_that_is_killed_while_it_starts_is_a_message(
    tokenising: subprocess.Popen[str],
) -> None:
    """The queue of a process pool once waited for it for ever, with a megabyte to hand over."""
    wait_until(lambda: bool(workers_of(tokenising.pid)))
    workers_of(tokenising.pid)[0].kill()
    _, errors = tokenising.communicate(timeout=20)
    assert "was ended from outside" in errors
