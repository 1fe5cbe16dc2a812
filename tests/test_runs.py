"""The run folder: what any reader sees, whatever state a killed writer left it in."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stentor import processes, run_events, runs
from stentor.errors import OptionError, RunError
from stentor.home import runs_folder
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    is_alive,
    list_checkpoints,
    list_runs,
    open_checkpoint,
    open_run,
    process_start,
    read_events,
    read_recipe,
    read_status,
    tail_events,
    tail_log,
    write_status,
)


@pytest.fixture
def run() -> Run:
    return create_run({"name": "tiny"}, "Tiny Run!")


def kinds(run: Run) -> list[str]:
    return [event["kind"] for event in read_events(run)]


def test_a_new_run_can_be_found(run: Run) -> None:
    assert open_run(run.id).folder == run.folder == runs_folder() / run.id
    assert "-tiny-run-" in run.id
    assert read_recipe(run) == {"name": "tiny"}
    assert current_status(run) == Status()
    assert [found.id for found in list_runs()] == [run.id]


def test_names_of_any_script_give_a_usable_id() -> None:
    for name in ("../../etc", "日本", "x" * 500, ""):
        assert open_run(create_run({}, name).id).folder.parent == runs_folder()


@pytest.mark.parametrize("run_id", ["../runs", "..", "", "a/b", "A", "a\n", "-a", "a" * 65, "a\0"])
def test_an_id_never_leaves_the_runs_folder(run: Run, run_id: str) -> None:
    with pytest.raises(RunError, match="is not a run id"):
        open_run(run_id)


@pytest.mark.parametrize("name", ["", "..", "../../x", "x", "general-1", "general-000001/..", "/"])
def test_a_checkpoint_reference_never_leaves_its_run(run: Run, name: str) -> None:
    with pytest.raises(OptionError, match="is not a checkpoint name"):
        open_checkpoint(f"run:{run.id}/{name}")


def test_a_missing_run_or_checkpoint_is_said(run: Run) -> None:
    with pytest.raises(RunError, match="There is no run 'nowhere'"):
        open_run("nowhere")
    with pytest.raises(RunError, match="it has: none yet"):
        open_checkpoint(f"run:{run.id}/general-000001")
    (run.checkpoints_folder / "general-000004").mkdir()
    with pytest.raises(RunError, match="it has: general-000004"):
        open_checkpoint(f"run:{run.id}/general-000001")
    assert open_checkpoint(f"run:{run.id}/general-000004").name == "general-000004"


def test_runs_are_listed_newest_first_and_only_those_that_open() -> None:
    """A copy named `my run (2)` once broke the list of models: listed, but never opened."""
    for name in ("20250101-000000-a-0000", "20260101-000000-a-0000", "my run (2)", "empty"):
        (runs_folder() / name).mkdir(parents=True)
        if name != "empty":
            (runs_folder() / name / "recipe.json").write_text("{}")
    assert [run.id for run in list_runs()] == ["20260101-000000-a-0000", "20250101-000000-a-0000"]


def test_checkpoints_are_listed_oldest_first_and_complete_ones_only(run: Run) -> None:
    names = ("general-000008", "story-000004", ".story-000008.partial", "notes", "story-1000000")
    for seconds, name in enumerate(names):
        folder = run.checkpoints_folder / name
        folder.mkdir()
        os.utime(folder, (1000 + seconds, 1000 + seconds))
    (run.checkpoints_folder / "file-000001").touch()
    found = [path.name for path in list_checkpoints(run)]
    assert found == ["general-000008", "story-000004", "story-1000000"]


def test_events_come_back_with_nan_and_infinity(run: Run) -> None:
    append_event(run, "metrics", loss=math.nan, norm=math.inf, step=3)
    (event,) = read_events(run)
    assert math.isnan(event["loss"]) and event["norm"] == math.inf
    assert (event["kind"], event["step"], event["v"]) == ("metrics", 3, runs.EVENT_VERSION)


def test_a_half_written_last_line_waits_for_its_end(run: Run) -> None:
    append_event(run, "one")
    with run.events_file.open("ab") as stream:
        stream.write(b'{"kind": "tw')
    events, offset = tail_events(run)
    assert [event["kind"] for event in events] == ["one"]
    with run.events_file.open("ab") as stream:
        stream.write(b'o"}\n')
    events, offset = tail_events(run, offset)
    assert [event["kind"] for event in events] == ["two"]
    assert tail_events(run, offset) == ([], offset)


def test_a_killed_writers_half_line_does_not_swallow_the_next(run: Run) -> None:
    append_event(run, "one")
    with run.events_file.open("ab") as stream:
        stream.write(b'{"kind": "metr')
    _, offset = tail_events(run)
    append_event(run, "resumed")
    append_event(run, "two")
    assert kinds(run) == ["one", "resumed", "two"]
    assert [event["kind"] for event in tail_events(run, offset)[0]] == ["resumed", "two"]


def test_tailing_by_offset_reads_every_line_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each read stops in the middle of a line, and at every byte a file can be cut at."""
    for number in range(20):
        append_event(run, "metrics", number=number, text="é\u2028\r" * number)
    monkeypatch.setattr(run_events, "TAIL_BYTES", 700)
    whole = run.events_file.read_bytes()
    run.events_file.write_bytes(b"")
    seen, offset = [], 0
    for size in range(0, len(whole) + 1, 7):
        run.events_file.write_bytes(whole[:size])
        events, offset = tail_events(run, offset)
        seen += [event["number"] for event in events]
    run.events_file.write_bytes(whole)
    seen += [event["number"] for event in tail_events(run, offset)[0]]
    assert seen == list(range(20))
    assert [event["number"] for event in read_events(run)] == list(range(20))


def test_odd_offsets_and_missing_files_are_harmless(run: Run) -> None:
    assert tail_events(run, 7) == ([], 7)
    assert list(read_events(run)) == []
    append_event(run, "one")
    size = run.events_file.stat().st_size
    assert tail_events(run, -5)[1] == size
    assert tail_events(run, size + 100) == ([], size + 100)


def test_foreign_lines_are_passed_over_and_unknown_kinds_kept(run: Run) -> None:
    append_event(run, "from-the-future", payload={"deep": [1]})
    with run.events_file.open("ab") as stream:
        stream.write(b'nonsense\n[1]\n"kind"\n{"no": 1}\n\n\xff\xfe\n')
    append_event(run, "metrics")
    assert kinds(run) == ["from-the-future", "metrics"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '"running"', "\xff", '{"pid": "self", "state": "running"}']
    + [json.dumps({"state": "running", "finished_stages": value}) for value in (5, None, "ab", [1])]
    + ['{"state": "starting", "heartbeat": "soon"}', '{"state": ["running"]}'],
)
def test_a_foreign_status_reads_as_created(run: Run, text: str) -> None:
    """`finished_stages: 5` once ended the reader with a TypeError."""
    run.status_file.write_bytes(text.encode("latin-1"))
    assert current_status(run) == Status()


def test_a_status_round_trip_ignores_what_it_does_not_know(run: Run) -> None:
    status = Status(state="stopped", step=4, finished_stages=("expand", "general"))
    write_status(run, status)
    values = json.loads(run.status_file.read_text())
    run.status_file.write_text(json.dumps({**values, "of_tomorrow": 1}))
    assert read_status(run) == status
    assert list(run.folder.glob(".status*")) == []


def test_running_means_this_pid_with_this_start_time(run: Run) -> None:
    mine = Status(state="running", pid=os.getpid(), process_start=process_start(os.getpid()))
    write_status(run, mine)
    assert current_status(run).state == "running"
    # The same pid, used again by another process.
    write_status(run, replace(mine, process_start="1"))
    died = current_status(run)
    reason = "Died before its first stage: the process ended without a word."
    assert (died.state, died.error) == ("died", reason)
    assert read_status(run).state == "running", "reading must not write"
    write_status(run, replace(mine, pid=None))
    assert current_status(run).state == "died"


def test_a_start_without_a_pid_is_given_time_and_one_with_a_pid_is_not(run: Run) -> None:
    write_status(run, Status(state="starting", heartbeat=time.time()))
    assert current_status(run).state == "starting"
    write_status(run, Status(state="starting", heartbeat=time.time() - runs.STARTING_SECONDS - 1))
    assert current_status(run).state == "died"
    write_status(
        run, Status(state="starting", heartbeat=time.time(), pid=os.getpid(), process_start="1")
    )
    assert current_status(run).state == "died"


def test_a_process_of_an_earlier_boot_is_not_this_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ticks count from the boot: after a restart any process may have the same pid and ticks."""
    pid, start = os.getpid(), str(process_start(os.getpid()))
    boot, _, ticks = start.rpartition(":")
    going = Status(state="running", pid=pid, process_start=start, stage="general", step=7)
    write_status(run, going)
    assert current_status(run) == going
    boot_file = tmp_path / "boot_id"
    boot_file.write_text("another-boot\n")
    monkeypatch.setattr(processes, "BOOT_ID_FILE", boot_file)
    status = current_status(run)
    assert status.state == "died"
    assert status.error == "Died at step 7 of general: the machine was restarted."
    # A status file of an earlier version names no boot; it still reads.
    write_status(run, replace(going, process_start=ticks))
    assert boot and current_status(run).state == "running"


def test_where_a_run_died_is_the_newer_of_status_and_events(run: Run) -> None:
    """The status is written once a second, each step at once: it once named an earlier step."""
    status = Status(
        state="running", pid=1 << 30, process_start="1", stage="general", step=3, total_steps=9
    )
    write_status(run, replace(status, heartbeat=time.time() - 5))
    append_event(run, "metrics", stage="general", step=6)
    append_event(run, "sample", stage="general", step=6, text="x" * 1000)
    append_event(run, "metrics", stage="general")  # foreign: no step
    with run.events_file.open("ab") as stream:
        stream.write(b'{"kind": "metrics", "stage": "general", "st')
    died = current_status(run)
    assert (died.state, died.stage, died.step, died.total_steps) == ("died", "general", 6, 9)
    assert died.error == "Died at step 6 of general: the process ended without a word."
    assert read_status(run).step == 3, "reading writes nothing"
    # Resumed from an earlier checkpoint, and killed before the next step.
    write_status(run, replace(status, heartbeat=time.time() + 5))
    assert current_status(run).step == 3
    # A disk without room took the events of the next stage, and no status.
    append_event(run, "metrics", stage="story", step=2)
    write_status(run, replace(status, heartbeat=time.time() - 5))
    died = current_status(run)
    assert (died.stage, died.step, died.total_steps) == ("story", 2, 0)


def test_a_run_whose_status_a_power_cut_took_has_died(run: Run) -> None:
    """An empty status file once made a run of days look as if nothing had been done."""
    run.status_file.write_bytes(b"")
    assert current_status(run) == Status(), "nothing was done yet"
    append_event(run, "metrics", stage="general", step=6)
    died = current_status(run)
    assert died.error == "Died at step 6 of general: its status file cannot be read."
    assert died.state == "died"


def test_the_end_of_a_huge_log_is_enough(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_events, "PLACE_BYTES", (100, 300))
    append_event(run, "metrics", stage="general", step=6)
    assert run_events.last_place(run) is not None
    append_event(run, "sample", text="x" * 400)
    assert run_events.last_place(run) is None


def test_a_zombie_is_not_alive() -> None:
    """An app that never waits for its child would see it running forever."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = process_start(child.pid)
    assert start is not None and is_alive(child.pid, start)
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet reaped
    assert Path(f"/proc/{child.pid}").exists()
    assert process_start(child.pid) is None
    assert not is_alive(child.pid, start)
    child.wait()
    assert process_start(child.pid) is None
    assert not is_alive(None, None)


def test_the_log_is_read_from_its_end(run: Run) -> None:
    assert tail_log(run) == ""
    run.log_file.write_bytes("é".encode() * 100 + b"\xff end")
    assert tail_log(run, max_bytes=8) == "\ufffdé\ufffd end"


def test_a_damaged_recipe_is_a_message(run: Run) -> None:
    run.recipe_file.write_bytes(b"\xff{")
    with pytest.raises(RunError, match=r"recipe.json cannot be read"):
        read_recipe(run)
