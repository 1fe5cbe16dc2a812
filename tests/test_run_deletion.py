"""Deleting a run: only a run, only one that nobody needs, and whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest

from stentor.errors import RunError
from stentor.home import runs_folder
from stentor.run_deletion import DELETING, delete_run
from stentor.run_queue import enqueue, queued_runs
from stentor.runs import Run, Status, create_run, list_runs, process_start, write_status


@pytest.fixture
def run() -> Run:
    return create_run({"name": "tiny"}, "tiny")


def test_a_run_is_gone_with_everything_and_leaves_the_line(run: Run) -> None:
    (run.checkpoints_folder / "general-000004").mkdir()
    (run.checkpoints_folder / "general-000004" / "model.safetensors").write_bytes(b"weights")
    enqueue(run)
    other = create_run({}, "other")
    delete_run(run)
    assert not run.folder.exists()
    assert (queued_runs(), list_runs()) == ([], [other])
    with pytest.raises(RunError, match="no run folder"):
        delete_run(run)


@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_run_that_goes_is_refused(run: Run, state: str) -> None:
    write_status(run, Status(state, os.getpid(), process_start(os.getpid())))
    with pytest.raises(RunError, match=r"is still going\. Stop it first"):
        delete_run(run)
    write_status(run, Status(state, os.getpid(), "1"))  # died: that pid is somebody else's
    delete_run(run)
    assert list_runs() == []


def test_only_a_run_of_the_runs_folder_is_deleted(run: Run, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "recipe.json").write_text("{}")
    (runs_folder() / "link").symlink_to(precious)
    (runs_folder() / "notes").mkdir()
    for folder, words in (
        (precious, "is not in the runs folder"),
        (runs_folder(), "is not in the runs folder"),
        (runs_folder() / ".." / "runs", "is not in the runs folder"),
        (runs_folder() / "link", "is a link"),
        (runs_folder() / "notes", "is no run folder"),
    ):
        with pytest.raises(RunError, match=words):
            delete_run(Run(folder))
    assert (precious / "recipe.json").exists()
    assert (runs_folder() / "notes").exists()


def test_what_another_run_begins_with_is_kept(run: Run) -> None:
    heir = create_run({"start": f"run:{run.id}/general-000004"}, "heir")
    enqueue(heir)
    with pytest.raises(RunError, match=f"Run {heir.id} begins with a checkpoint of {run.id}"):
        delete_run(run)
    write_status(heir, Status("finished"))
    delete_run(run)
    assert list_runs() == [heir]


def test_a_killed_deletion_leaves_no_half_run_and_is_finished_by_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = create_run({}, "other")

    def killed(path: Path) -> None:
        (path / "status.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_run(run)
    assert list_runs() == [other]
    assert [path.name for path in runs_folder().glob(".*")] == [f"{DELETING}{run.id}"]
    delete_run(other)
    assert list(runs_folder().iterdir()) == []


def test_a_disk_that_lets_nothing_go_is_a_message(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(RunError, match="no longer listed, but files of it could not be removed"):
        delete_run(run)
    assert list_runs() == []
