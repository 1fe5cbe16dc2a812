"""Peers are children of their own: missing ones are told, crashes and failures end no benchmark."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stentor.bench.peers import PEERS, Peer, measure_peer, why_skipped
from stentor.bench.random_checkpoint import SHAPES
from stentor.peers.protocol import Job, PeerError, Shape

CRASHING = Peer("crashing", "tests.crashing_peer", ("json",), "nothing")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(
        folder=str(tmp_path),
        files=(),
        shape=Shape(**asdict(SHAPES["stentor-30m"])),
        work_folder=str(tmp_path),
        prompts=((1, 2, 3),),
        users=(1,),
        num_tokens=5,
        temperature=0.5,
        top_p=0.9,
        num_threads=1,
        is_on_gpu=False,
    )


def test_what_is_missing_is_named_with_the_way_to_install_it() -> None:
    peer = replace(CRASHING, needs=("json", "no_such_module"), packages="some-package")
    assert why_skipped(CRASHING, sys.executable) is None
    line = why_skipped(peer, sys.executable)
    assert line is not None
    assert "skipped, this Python has no no_such_module." in line
    assert "pip install some-package" in line and "--peers-python" in line
    line = why_skipped(peer, "/no/such/python")
    assert line is not None and "/no/such/python cannot be run" in line


def test_transformers_needs_no_environment_of_its_own() -> None:
    assert [peer.title for peer in PEERS if peer.is_own_python] == ["transformers"]
    assert why_skipped(PEERS[0], sys.executable) is None


def test_a_crash_is_tried_once_more_with_care(job: Job) -> None:
    """llama.cpp's AMX kernels die with SIGSEGV on some machines; it works without them.

    Whatever a library prints must not get between the answer and its reader.
    """
    answer, notes = measure_peer(CRASHING, sys.executable, job)
    assert notes[0].startswith("crashed with SIGSEGV") and notes[1:] == ("a note",)
    assert answer.series[0].runs[0].num_tokens == 5


def test_a_failure_is_one_line(job: Job) -> None:
    with pytest.raises(PeerError, match="exit code 2: one token is too few"):
        measure_peer(CRASHING, sys.executable, replace(job, num_tokens=1))
