"""The watch over a run: alarms told once, in order, over resumes, and never in training's way."""

import errno
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alarm_events import gpu, noisy, read, started, stepped
from tiny_recipe import PATIENCE_SECONDS, TRAINING
from tokenizers import Tokenizer
from webhook_server import receiver

from stentor.notify import Notifier
from stentor.runs import Run, append_event, create_run, read_events
from training.alarm_settings import AlarmSettings
from training.alarms.watch import AlarmWatch
from training.data import prepare_stage_data
from training.recipe import Recipe, Stage
from training.recipes import find_recipe
from training.recorder import Recorder
from training.settings import Source

pytestmark = pytest.mark.usefixtures("old_signals")

GOLDEN = Path(__file__).parent / "golden"
STAGES = tuple(
    Stage(name, "pretrain", name.title(), replace(TRAINING, num_steps=5_000))
    for name in ("general", "story")
)
RECIPE = Recipe("tiny", "Tiny", "For a test.", None, STAGES, alarms=AlarmSettings())


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


def alarms_of(run: Run) -> list[tuple[str, str]]:
    return [(e["alarm"], e["state"]) for e in read_events(run) if e["kind"] == "alarm"]


def session(
    run: Run, events: list[dict[str, Any]], notifier: Notifier | None = None
) -> list[tuple[str, str]]:
    """Let a recorder write these events under a watch; return all alarms of the run so far."""
    recorder = Recorder(run)
    with recorder, AlarmWatch(recorder, RECIPE, notifier or Notifier(None, print)):
        for event in events:
            recorder.event(**event)
    return alarms_of(run)


def test_a_long_healthy_run_is_silent(run: Run) -> None:
    """Three thousand steps a stage, with readings of two GPUs that work at their power limit."""
    events: list[dict[str, Any]] = []
    for stage in ("general", "story"):
        events.append(started(stage))
        for step, loss in enumerate(noisy(3_000, seed=len(stage)), start=1):
            speed = 2_048.0 * (1 + 0.1 * math.sin(step))
            events.append(stepped(step, loss, stage, tokens_per_second=speed))
            if step % 10 == 0:
                gpus = [gpu(0, temperature=78.0, throttle=["power"]), gpu(1, temperature=81.0)]
                events.append(read(gpu=gpus, disk_free_bytes=10**12))
    assert session(run, events) == []


def test_alarms_are_events_lines_and_messages(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with receiver() as server:
        notifier = Notifier(server.address, print)
        session(run, [started(), stepped(1), stepped(2, math.nan)], notifier)
        message = server.wait_for(1)[0]
        notifier.close()
    event = next(event for event in read_events(run) if event["kind"] == "alarm")
    place = {"stage": "general", "step": 2, "tokens": 4_096}
    assert {name: event[name] for name in place} == place
    assert (event["alarm"], event["state"]) == ("not_finite", "raised")
    assert math.isnan(event["value"]) and event["limit"] is None
    assert message["message"] == event["message"] and message["run"] == run.id
    assert f"Alarm (not_finite): {event['message']}" in capsys.readouterr().out
    assert server.address not in run.events_file.read_text()


def test_an_alarm_is_told_once_however_often_it_is_seen(run: Run) -> None:
    hot = read(gpu=[gpu(temperature=90.0)])
    cool = read(gpu=[gpu(temperature=50.0)])
    found = session(run, [hot, hot, hot, cool, cool, hot, cool])
    assert found == [("hot_gpu", "raised"), ("hot_gpu", "cleared")] * 2


def test_an_alarm_that_was_open_at_a_kill_is_not_told_again_and_not_forgotten(run: Run) -> None:
    """The process is killed right after its alarms: nothing closes them but the next session."""
    losses = list(noisy(100))
    before = [started(), *(stepped(n, loss) for n, loss in enumerate(losses, start=1))]
    high = [stepped(101, 9.0), read(gpu=[gpu(temperature=95.0)]), stepped(102, 9.0)]
    for event in (*before, *high):
        append_event(run, **event)
    for name in ("spike", "hot_gpu", "stall", "dead_worker"):
        append_event(run, "alarm", alarm=name, state="raised", message="It is.")
    told = [(name, "raised") for name in ("spike", "hot_gpu", "stall", "dead_worker")]
    again = [started(step=96), *before[97:], *high[::2]]
    found = session(run, [*again, read(gpu=[gpu(temperature=95.0)])])
    # The steps go on; the loss is still high; the GPU still hot, until nobody looks any more.
    assert set(found[4:]) == {
        ("stall", "cleared"),
        ("dead_worker", "cleared"),
        ("hot_gpu", "cleared"),
    }
    assert found[:4] == told and len(found) == 7
    found = session(run, [started(step=102), *(stepped(n, losses[-1]) for n in range(103, 110))])
    assert found[7:] == [("spike", "cleared")]


def test_an_alarm_that_a_kill_left_untold_is_told_if_it_is_still_so(run: Run) -> None:
    for event in (started(), stepped(1), stepped(2, math.nan)):
        append_event(run, **event)
    assert session(run, [started(step=1), stepped(2, math.nan)]) == [("not_finite", "raised")]


def test_what_an_old_log_holds_ends_no_run(run: Run) -> None:
    append_event(run, "alarm", alarm=["spike"], state="raised")
    append_event(run, "alarm", alarm="of_the_future", state="raised")
    append_event(run, "metrics", step="2", stage=["general"], loss="low")
    append_event(run, "system", gpu=3, disk_free_bytes="none")
    append_event(run, "system", gpu=[None, {"throttle": 3, "temperature": "hot", "index": []}])
    append_event(run, "checkpoint", bytes=math.nan)
    found = session(run, [started(), stepped(1), stepped(2, math.nan)])
    assert found[2:] == [("not_finite", "raised")], "the watch is still awake"


def test_a_mistake_of_the_watch_ends_the_watch_and_not_the_training(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.alarms.loss.Spike.see", lambda *_: 1 // 0)
    assert session(run, [started(), stepped(1), stepped(2, math.nan)]) == []
    assert capsys.readouterr().out.count("the alarms are off after a mistake of their own") == 1


def test_a_full_disk_leaves_the_line_and_the_message(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Run, kind: str, **values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Recorder(run) as recorder, AlarmWatch(recorder, RECIPE, Notifier(None, print)) as watch:
        monkeypatch.setattr("training.recorder.append_event", refuse)
        watch.see("system", read(disk_free_bytes=1))
    assert "Alarm (disk_low): Only 0.0 GB are free" in capsys.readouterr().out


@pytest.fixture
def preparing(run: Run, tiny_model_folder: Path) -> Callable[[Callable[[], None]], None]:
    """Return what prepares text under a watch, and does something in the midst of it."""

    def prepare(meanwhile: Callable[[], None]) -> None:
        tokenizer = Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))
        say = iter((meanwhile,))
        recipe = replace(RECIPE, alarms=AlarmSettings(stall_seconds=1.0))
        recorder = Recorder(run)
        watch = AlarmWatch(recorder, recipe, Notifier(None, print), tick=0.02)
        with recorder, watch:
            recorder.event(**started())
            prepare_stage_data(
                (Source(),),
                tokenizer,
                0,
                replace(TRAINING, num_steps=2),
                run.data_folder,
                5,
                lambda _: next(say, lambda: None)(),
            )

    return prepare


def test_preparing_text_is_no_stall_while_it_writes(
    run: Run, preparing: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells of its progress once in a long while; what it writes shows that it goes on."""
    monkeypatch.setattr("training.alarms.speed.WORK_FACTOR", 1.0)

    def write() -> None:
        for _ in range(30):
            (run.data_folder / "shard").write_bytes(b"tokens")
            time.sleep(0.05)

    preparing(write)
    assert alarms_of(run) == []


def test_preparing_text_that_hangs_is_a_stall_with_its_place(
    run: Run, preparing: Callable[[Callable[[], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.alarms.speed.WORK_FACTOR", 0.2)

    def hang() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not alarms_of(run):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    preparing(hang)
    assert alarms_of(run) == [("stall", "raised"), ("stall", "cleared")]
    message = next(e["message"] for e in read_events(run) if e["kind"] == "alarm")
    assert "after the start of stage general, in the preparation of text." in message
    assert "The process is at training." in message


def test_a_real_practice_run_is_silent(run: Run) -> None:
    """The events of a run of the practice recipe, as its trainer wrote them."""
    lines = (GOLDEN / "practice_events.jsonl").read_text(encoding="utf-8").splitlines()
    recipe = find_recipe("practice")
    recorder = Recorder(run)
    with recorder, AlarmWatch(recorder, recipe, Notifier(None, print)):
        for line in lines:
            event = json.loads(line)
            recorder.event(**{name: event[name] for name in event if name not in ("v", "t")})
    assert len(lines) > 100 and alarms_of(run) == []


def test_nothing_of_the_watch_runs_on_after_the_run(run: Run) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    session(run, [started(), stepped(1)])
    assert {thread.ident for thread in threading.enumerate()} <= before


def test_a_lost_worker_is_told_with_what_the_others_noticed(run: Run) -> None:
    with Recorder(run) as recorder, AlarmWatch(recorder, RECIPE, Notifier(None, print)) as watch:
        watch.lose_worker(2, RuntimeError("[gloo] Connection reset by peer"))
    assert alarms_of(run) == [("dead_worker", "raised")]
