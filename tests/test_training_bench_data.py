"""Both ways of preparing text, on a small file: the same text, nothing lost, memory watched."""

import json
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE

import pytest

from stentor.errors import OptionError
from training.bench import datasets_peer, own_data
from training.bench.memory_watch import SAMPLE_SECONDS, MemoryWatch
from training.bench.plan import DataJob
from training.bench.subjects import write_text

NUM_BYTES = 200_000
CHILD = "held = bytearray(b'x') * (128 << 20); print(len(held), flush=True); input()"


@pytest.fixture
def job(tiny_model_folder: Path, tmp_path: Path) -> DataJob:
    write_text(tmp_path / "text.jsonl", NUM_BYTES)
    return DataJob(
        text_file=str(tmp_path / "text.jsonl"),
        folder=str(tiny_model_folder),
        work_folder=str(tmp_path),
        num_processes=1,
        num_threads=1,
    )


def test_text_is_as_long_as_asked_and_counted_in_bytes(tmp_path: Path) -> None:
    written = write_text(tmp_path / "text.jsonl", NUM_BYTES)
    lines = (tmp_path / "text.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert sum(len(text.encode("utf-8")) for text in texts) == written
    assert NUM_BYTES <= written < NUM_BYTES + 5_000
    assert len(set(texts)) == len(texts)


def test_text_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text('{"text": "naïve"}\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "other.jsonl").write_text('{"body": "one"}\n', encoding="utf-8")
    file = tmp_path / "text.jsonl"
    assert write_text(file, NUM_BYTES, (str(tmp_path / "own.jsonl"),)) == 6 + 3
    assert [json.loads(line)["text"] for line in file.read_text().splitlines()] == ["naïve", "two"]
    with pytest.raises(OptionError, match="has no column called text"):
        write_text(file, NUM_BYTES, (str(tmp_path / "other.jsonl"),))
    with pytest.raises(OptionError, match=r"unknown ending; known: \.txt, \.jsonl, \.parquet"):
        write_text(file, NUM_BYTES, ("book.pdf",))


def test_both_ways_see_the_same_text(job: DataJob) -> None:
    """datasets drops the rest of each batch of documents; nothing else differs."""
    theirs, ours = datasets_peer.measure(job), own_data.measure(job)
    assert ours.num_tokens == pytest.approx(theirs.num_tokens, rel=0.05)
    assert 0 < theirs.map_seconds < theirs.seconds
    assert ours.map_seconds == 0 and ours.seconds > 0
    assert min(ours.peak_bytes, theirs.peak_bytes) > 10_000_000


def test_memory_is_watched_with_that_of_children() -> None:
    with MemoryWatch() as before:
        pass
    with (
        MemoryWatch() as watch,
        subprocess.Popen([sys.executable, "-c", CHILD], stdin=PIPE, stdout=PIPE) as child,
    ):
        assert child.stdout is not None
        child.stdout.readline()  # it holds its memory now
        time.sleep(4 * SAMPLE_SECONDS)
        child.communicate(b"\n")
    assert watch.peak_bytes > before.peak_bytes + (100 << 20)
