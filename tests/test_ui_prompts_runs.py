"""Which run is shown, and the files offered for download."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from stentor.errors import RunError
from stentor.evaluation_store import (
    Evaluation,
    EvaluationSettings,
    ModelUsed,
    Result,
    append_result,
    create_evaluation,
    write_evaluation,
)
from stentor.exports import write_export
from stentor.ui import prompts_runs
from stentor.ui.prompts_runs import export_files, newest_of, opened, run_choices


def make(category: str, covered: tuple[str, ...], state: str = "finished") -> Evaluation:
    evaluation = create_evaluation(
        EvaluationSettings(category=category),
        (ModelUsed("demo-base", "Demo base"), ModelUsed("demo-big", "Demo big")),
        suite_hash="sha256:1",
        sampling={name: {"temperature": 0.5} for name in covered},
        total=2,
        prompts_at_a_time=1,
        versions={},
        machine={},
    )
    done = replace(evaluation, state=state)
    write_evaluation(done)
    if state != "failed":
        name = covered[0]
        append_result(done, Result(f"{name}-01", name, "Light is", 0, "demo-base", "fluency"))
    return done


def test_the_newest_run_that_has_results_of_the_category() -> None:
    assert newest_of("science") is None
    science = make("science", ("science",))
    assert newest_of("science") == science
    assert newest_of("python") is None and newest_of("all") is None
    everything = make("all", ("science", "python"))
    make("python", ("python",), "failed")  # nothing came of it
    assert newest_of("python") == everything and newest_of("all") == everything


def test_the_menu_lists_runs_and_opens_only_ids() -> None:
    science = make("science", ("science",))
    (choice,) = run_choices()
    assert choice[1] == science.id and "Science" in choice[0]
    assert run_choices(science) == [choice]
    assert opened(science.id) == science
    assert opened(None) is None and opened("") is None
    with pytest.raises(RunError):
        opened("../../etc/passwd")


def test_a_run_that_is_going_has_nothing_to_download(tmp_path: Path) -> None:
    for evaluation in (None, make("science", ("science",), "running")):
        assert export_files(evaluation, tmp_path) == {".json": None, ".csv": None}
    failed = make("science", ("science",), "failed")
    assert export_files(failed, tmp_path)[".csv"] is None


def test_downloads_are_real_files_with_the_runs_name(tmp_path: Path) -> None:
    evaluation = make("science", ("science",), "stopped")
    files = export_files(evaluation, tmp_path)
    assert files == export_files(evaluation, tmp_path)
    assert files[".json"] is not None and files[".csv"] is not None
    assert files[".json"].name == f"stentor-{evaluation.id}.json"
    assert json.loads(files[".json"].read_text(encoding="utf-8"))["id"] == evaluation.id
    assert sorted(path.name for path in files[".csv"].parent.iterdir()) == sorted(
        path.name for path in files.values() if path
    )


def test_visitors_who_look_in_the_same_moment_get_the_same_whole_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six threads wrote beside under one name; the first renamed it away from the others."""
    evaluation, visitors = make("science", ("science",)), 6
    all_have_written = Barrier(visitors, timeout=60.0)

    def write_with_the_others(evaluation: Evaluation, path: Path) -> Path:
        written = write_export(evaluation, path)
        all_have_written.wait()
        return written

    monkeypatch.setattr(prompts_runs, "write_export", write_with_the_others)
    with ThreadPoolExecutor(visitors) as pool:
        answers = list(pool.map(lambda _: export_files(evaluation, tmp_path), range(visitors)))
    first = answers[0]
    assert answers == [first] * visitors
    assert first[".json"] is not None
    assert json.loads(first[".json"].read_text(encoding="utf-8"))["id"] == evaluation.id
    assert set(first[".json"].parent.iterdir()) == set(first.values())


def test_a_run_that_has_ended_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make("science", ("science",))
    files = export_files(evaluation, tmp_path)

    def never(evaluation: Evaluation, path: Path) -> Path:
        raise AssertionError(f"{path} was written again")

    monkeypatch.setattr(prompts_runs, "write_export", never)
    assert export_files(evaluation, tmp_path) == files
