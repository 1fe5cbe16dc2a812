"""Plans, commands, uploads, and who may start, stop and resume."""

import os
import shlex
import time
from pathlib import Path

import pytest

from stentor.errors import DataError, OptionError, RunError
from stentor.home import uploads_folder
from stentor.runs import Run, Status, create_run, list_runs, process_start, write_status
from stentor.ui import train_uploads
from stentor.ui.train_actions import (
    PATIENCE_SECONDS,
    Plan,
    budgets_differ,
    command_of,
    planned_recipe,
    resume_run,
    start_run,
    stop_run,
)
from stentor.ui.train_uploads import MAX_FILE_BYTES, list_texts, safe_name, save_texts
from training.__main__ import make_parser
from training.recipe_flags import chosen_recipe
from training.recipes import RECIPES, find_recipe


def write_upload(folder: Path, name: str, text: str = "Some text.\n") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def going_run() -> Run:
    """Return a run that this test's own process seems to be doing."""
    run = create_run({}, "practice")
    pid = os.getpid()
    write_status(run, Status(state="running", pid=pid, process_start=process_start(pid)))
    return run


def test_the_command_shown_makes_the_run_that_start_makes(tmp_path: Path) -> None:
    """What a person copies into a terminal must be the same recipe, word for word."""
    names = save_texts([write_upload(tmp_path, "my stories.txt")], None)
    plans = [
        *(Plan(name) for name in RECIPES),
        Plan("card", budget="tokens"),
        Plan("card", texts=tuple(names), text_stage="narrative"),
        Plan("practice", texts=tuple(names)),
    ]
    for plan in plans:
        words = shlex.split(command_of(plan))
        assert words[:3] == ["python", "-m", "training"]
        assert chosen_recipe(make_parser().parse_args(words[3:])) == planned_recipe(plan)


def test_budgets_are_offered_where_they_disagree() -> None:
    assert budgets_differ(find_recipe("card"))
    assert not budgets_differ(find_recipe("practice"))


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.txt", "passwd.txt"),
        ("..\\..\\boot.TXT", "boot.txt"),
        ("my stories; rm -rf ~.jsonl", "my-stories-rm--rf.jsonl"),
        (".hidden.txt", "hidden.txt"),
        ("...txt", "text.txt"),
        ("<b>.parquet", "b.parquet"),
        ("résumé 日本.txt", "résumé-日本.txt"),
        ("a" * 300 + ".txt", "a" * 80 + ".txt"),
    ],
)
def test_names_of_uploads_stay_names(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_uploads_are_kept_under_new_names_and_found_again(tmp_path: Path) -> None:
    first = write_upload(tmp_path, "story one.txt", "one")
    assert save_texts([first], None) == ["story-one.txt"]
    assert save_texts([first], None) == ["story-one-2.txt"]
    assert list_texts() == ["story-one-2.txt", "story-one.txt"]
    assert (uploads_folder() / "story-one.txt").read_text(encoding="utf-8") == "one"


def test_what_is_no_training_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of \.txt"):
        save_texts([write_upload(tmp_path, "weights.pt")], None)
    with pytest.raises(DataError, match="0 bytes"):
        save_texts([write_upload(tmp_path, "empty.txt", "")], None)
    large = tmp_path / "large.txt"
    with large.open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # a hole: takes no disk
    with pytest.raises(DataError, match="at most 200 MB"):
        save_texts([str(large)], None)
    assert list_texts() == []


def test_the_folder_of_uploads_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_uploads, "MAX_FOLDER_BYTES", 25)
    save_texts([write_upload(tmp_path, "a.txt", "x" * 20)], None)
    with pytest.raises(DataError, match="has 20 bytes already"):
        save_texts([write_upload(tmp_path, "b.txt", "x" * 20)], None)


@pytest.mark.parametrize("name", ["../recipe.json", "/etc/passwd", "missing.txt", "link.txt"])
def test_only_uploaded_files_can_be_named(name: str) -> None:
    uploads_folder().mkdir(parents=True)
    (uploads_folder() / "link.txt").symlink_to("/etc/passwd")
    with pytest.raises(DataError, match="no uploaded file"):
        planned_recipe(Plan("practice", texts=(name,)))


def test_a_stage_without_its_text_is_refused_before_a_run_exists() -> None:
    with pytest.raises(DataError, match="narrative"):
        start_run(Plan("card"), None)
    with pytest.raises(OptionError, match="No recipe"):
        start_run(Plan("practise"), None)
    assert list_runs() == []


def test_where_training_is_off_nothing_is_started_stopped_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers answer anyone who can reach the server, page or not."""
    run = going_run()
    for refusal in ("Switched off here.", None):
        if refusal is None:
            monkeypatch.setenv("SPACE_ID", "someone/stentor")
        with pytest.raises(RunError, match="off"):
            start_run(Plan("practice"), refusal)
        with pytest.raises(RunError, match="off"):
            stop_run(run.id, refusal)
        with pytest.raises(RunError, match="off"):
            resume_run(run.id, refusal)
        with pytest.raises(RunError, match="off"):
            save_texts([write_upload(tmp_path, "a.txt")], refusal)
    assert [one.id for one in list_runs()] == [run.id]
    assert not run.stop_file.exists()
    assert not uploads_folder().exists()


def test_one_run_at_a_time_and_no_empty_folder_is_left() -> None:
    run = going_run()
    with pytest.raises(RunError, match=r"still going; one run at a time\. Stop it or wait"):
        start_run(Plan("practice"), None)
    assert [one.id for one in list_runs()] == [run.id]


def test_stop_asks_first_and_ends_the_process_only_when_pressed_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    def terminate(run: Run) -> bool:
        ended.append(run.id)
        return True

    monkeypatch.setattr("stentor.jobs.terminate", terminate)
    run = going_run()
    assert "Asked to stop" in stop_run(run.id, None)
    assert "Already asked" in stop_run(run.id, None)
    assert ended == []
    long_ago = time.time() - PATIENCE_SECONDS - 1
    os.utime(run.stop_file, (long_ago, long_ago))
    assert "Ended" in stop_run(run.id, None)
    assert ended == [run.id]


def test_only_a_run_that_waits_can_be_resumed_and_only_a_going_one_stopped() -> None:
    run = going_run()
    with pytest.raises(RunError, match="already going"):
        resume_run(run.id, None)
    write_status(run, Status(state="finished"))
    with pytest.raises(RunError, match="nothing to resume"):
        resume_run(run.id, None)
    with pytest.raises(RunError, match="not going"):
        stop_run(run.id, None)
    with pytest.raises(RunError, match="not a run id"):
        stop_run("../../etc", None)
