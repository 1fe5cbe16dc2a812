"""The buttons of a run: what each does, when it is refused, and that nobody else may press it."""

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stentor import jobs
from stentor.errors import DataError, OptionError, RunError, StentorError
from stentor.home import uploads_folder
from stentor.run_queue import queued_runs
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    list_runs,
    process_start,
    read_recipe,
    read_status,
    write_status,
)
from stentor.ui.train_actions import ACTIONS, control, start_run
from stentor.ui.train_uploads import save_texts
from training.recipe import with_options, with_stages
from training.recipes import find_recipe

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


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


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every run that is started sleep, and end them all afterwards."""
    monkeypatch.setattr(jobs, "command_for", lambda run, verb: SLEEP)
    yield
    for run in jobs.active_runs():
        pid = read_status(run).pid
        assert pid is not None and pid != os.getpid()
        os.kill(pid, signal.SIGKILL)


def press(run: Run, action: str) -> str:
    return control({"run": run.id, "action": action}, None)["news"]


def test_a_stage_without_its_text_is_refused_before_a_run_exists() -> None:
    with pytest.raises(DataError, match="narrative"):
        start_run(find_recipe("card"), None)
    assert list_runs() == []


def test_a_run_is_made_of_the_stages_that_are_not_skipped(sleepers: None) -> None:
    recipe = find_recipe("practice")
    last = recipe.stages[-1].name
    run = start_run(with_stages(recipe, {}, skip=[last]), None)
    names = [stage["name"] for stage in read_recipe(run)["stages"]]
    assert names == [stage.name for stage in recipe.stages[:-1]]
    assert current_status(run).state == "starting"


@pytest.mark.parametrize("action", ACTIONS)
def test_where_training_is_off_no_button_does_anything(
    action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anyone who can reach the server can ask, page or not."""
    states = {
        "going": Status("running", os.getpid(), process_start(os.getpid())),
        "waiting": Status("queued", queue_place=1.0),
        "later": Status("queued", queue_place=2.0),
        "over": Status("stopped", stage="general", step=4),
        "new": Status(),
    }
    runs = {name: create_run({}, name) for name in states}
    for name, status in states.items():
        write_status(runs[name], status)
    before = {path: path.read_bytes() for run in runs.values() for path in files_of(run)}
    for refusal in ("Switched off here.", None):
        if refusal is None:
            monkeypatch.setenv("SPACE_ID", "someone/stentor")
        for run in (*runs.values(), Run(Path("nowhere"))):
            with pytest.raises(RunError, match="witched off"):
                control({"run": run.id, "action": action}, refusal)
    assert {path: path.read_bytes() for run in runs.values() for path in files_of(run)} == before


def files_of(run: Run) -> list[Path]:
    return sorted(path for path in run.folder.rglob("*") if path.is_file())


def test_where_training_is_off_nothing_is_started_queued_or_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for refusal in ("Switched off here.", None):
        if refusal is None:
            monkeypatch.setenv("SPACE_ID", "someone/stentor")
        for queue in (False, True):
            with pytest.raises(RunError, match="off"):
                start_run(find_recipe("practice"), refusal, queue=queue)
        with pytest.raises(RunError, match="off"):
            save_texts([write_upload(tmp_path, "a.txt")], refusal)
    assert list_runs() == []
    assert not uploads_folder().exists()


def test_a_busy_device_is_named_with_its_run_and_no_empty_folder_is_left(sleepers: None) -> None:
    recipe = with_options(find_recipe("practice"), devices="0")
    first = start_run(recipe, None)
    with pytest.raises(RunError, match=rf"Run {first.id} is still going on GPU 0\. Stop it, wait"):
        start_run(recipe, None)
    assert list_runs() == [first]
    waiting = start_run(recipe, None, queue=True)
    beside = start_run(with_options(recipe, devices="1"), None, queue=True)
    assert current_status(waiting).state == "queued"
    assert current_status(beside).state == "starting", "its device is free"


def test_stop_asks_and_stop_now_ends_the_process_and_lets_the_next_one_start(
    sleepers: None,
) -> None:
    run = start_run(find_recipe("practice"), None)
    assert press(run, "save").startswith("Asked to save")
    assert press(run, "sample").startswith("Asked for samples")
    assert run.save_file.exists() and run.sample_file.exists()
    assert "Asked to stop" in press(run, "stop")
    assert "Already asked" in press(run, "stop")
    assert current_status(run).state == "starting"
    following = start_run(find_recipe("practice"), None, queue=True)
    assert "Ended" in press(run, "stop_now")
    assert (current_status(run).state, current_status(following).state) == ("stopped", "starting")


def test_the_buttons_of_the_line(sleepers: None) -> None:
    going, *waiting = (create_run({"devices": "0"}, name) for name in "abcd")
    assert press(going, "enqueue") == "Its devices are free, so it starts at once."
    for run in waiting:
        assert press(run, "enqueue").startswith("In line.")
    assert press(waiting[2], "queue_up") == "It is number 2 in line."
    assert press(waiting[2], "queue_up") == "It is next in line."
    assert press(waiting[2], "queue_down") == "It is number 2 in line."
    assert queued_runs() == [waiting[0], waiting[2], waiting[1]]
    with pytest.raises(RunError, match="still going on GPU 0"):
        press(waiting[1], "start")
    with pytest.raises(RunError, match="It is in line; take it out"):
        press(waiting[1], "stop")
    assert press(waiting[0], "unqueue").startswith("Taken out of the line")
    assert current_status(waiting[0]).state == "created"
    with pytest.raises(RunError, match="not in line"):
        press(waiting[0], "queue_up")
    assert press(waiting[2], "delete") == f"Deleted {waiting[2].id}."
    assert queued_runs() == [waiting[1]]


def test_resume_and_start_go_on_from_what_is_there(sleepers: None) -> None:
    run = create_run({}, "practice")
    assert press(run, "start") == "Starting."
    with pytest.raises(RunError, match="already going"):
        press(run, "resume")
    assert "Ended" in press(run, "stop_now")
    append_event(run, "metrics", stage="general", step=4)
    assert press(run, "resume").startswith("Resuming. The last checkpoint is verified first")
    assert read_status(run).error is None


def test_what_is_over_stays_over() -> None:
    run = create_run({}, "practice")
    write_status(run, Status(state="finished"))
    for action in ("resume", "start"):
        with pytest.raises(RunError, match="nothing to resume"):
            press(run, action)
    for action in ("stop", "stop_now", "save", "sample"):
        with pytest.raises(RunError, match="not going"):
            press(run, action)
    with pytest.raises(RunError, match="is finished"):
        press(run, "enqueue")
    assert not run.stop_file.exists()


def test_a_run_that_goes_is_not_deleted() -> None:
    run = going_run()
    with pytest.raises(RunError, match="Stop it first"):
        press(run, "delete")
    write_status(run, replace(read_status(run), state="stopped"))
    press(run, "delete")
    assert list_runs() == []


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"run": "x"},
        {"run": "x", "action": "explode"},
        {"run": "x", "action": ["stop"]},
        {"run": "x", "action": "a" * 1000},
        {"run": "../../etc", "action": "delete"},
        {"run": None, "action": "delete"},
        {"run": {"id": 1}, "action": "stop"},
        {"run": "nowhere", "action": "stop"},
    ],
)
def test_a_question_that_no_page_asks_is_a_message(question: dict[str, Any]) -> None:
    with pytest.raises((OptionError, RunError)) as caught:
        control(question, None)
    assert isinstance(caught.value, StentorError) and len(str(caught.value)) < 500
