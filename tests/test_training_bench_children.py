"""One figure is one process: whatever happens to it is one line, and never the end of the bench."""

from pathlib import Path

import pytest

from training.bench.children import ChildError, measure_in_child
from training.bench.plan import DataAnswer, DataJob

CHILD = "tests.training_bench_child"


def ask(what: str, folder: Path, module: str = CHILD) -> DataAnswer:
    job = DataJob(what, "model", str(folder), num_processes=1, num_threads=3)
    return measure_in_child(module, job, DataAnswer, folder)


def test_an_answer_arrives_past_what_libraries_print(tmp_path: Path) -> None:
    answer = ask("answers", tmp_path)
    # Threads are counted before a library can start its own, and temporary files stay below.
    assert answer == DataAnswer(2.0, 3, len(str(tmp_path)))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("fails", "failed with exit code 2: There is no text here"),
        ("breaks", "failed with exit code 1: ValueError: a mistake of its own"),
        ("starved", "was killed, most likely for want of memory"),
        ("crashes", "ended by SIGSEGV"),
    ],
)
def test_a_failure_is_one_line(tmp_path: Path, what: str, message: str) -> None:
    with pytest.raises(ChildError, match=message) as caught:
        ask(what, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ChildError, match="No module named 'no_such_module'"):
        ask("answers", tmp_path, "no_such_module")


def test_an_interrupt_ends_the_bench_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask("interrupted", tmp_path)
