"""What a watching browser is told, from real run folders."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import OptionError, RunError
from stentor.runs import Run, Status, append_event, create_run, write_status
from stentor.ui import train_follow, train_view
from stentor.ui.chart import MAX_POINTS
from stentor.ui.train_feed import RunFeeds, answer, read_curves
from training.recipe import recipe_to_json
from training.recipes import find_recipe

TOKENS_PER_STEP = 2_048


@pytest.fixture
def run() -> Run:
    """Return a practice run of two steps."""
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    write_status(run, Status(state="stopped", stage="general", step=2, total_steps=20))
    append_event(run, "machine", name="CPU", num_cores=2, torch_version="2.13.0")
    start_stage(run, 0)
    for step in (1, 2):
        append_step(run, step)
    return run


def start_stage(run: Run, step: int) -> None:
    append_event(
        run,
        "stage_started",
        stage="general",
        stage_kind="pretrain",
        title="General",
        step=step,
        total_steps=20,
        tokens=step * TOKENS_PER_STEP,
    )


def append_step(run: Run, step: int, loss: float = 4.0) -> None:
    append_event(
        run,
        "metrics",
        stage="general",
        step=step,
        tokens=step * TOKENS_PER_STEP,
        loss=loss,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=900.0,
    )


def ask(feeds: RunFeeds, run: Run, offset: int = 0, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    reply = answer(feeds, {"run": run.id, "offset": offset, **more}, None)
    json.dumps(reply, allow_nan=False)
    return reply


def test_a_browser_gets_everything_once_and_then_only_what_is_new(run: Run) -> None:
    feeds = RunFeeds()
    first = ask(feeds, run)
    assert first["is_whole"]
    assert first["curves"]["loss"] == {"x": [2_048, 4_096], "y": [4.0, 4.0]}
    nothing = ask(feeds, run, first["offset"])
    assert (nothing["is_whole"], nothing["curves"]) == (False, {})
    assert "parts" in first and "parts" not in ask(feeds, run, parts_key=first["parts_key"])
    append_step(run, 3, loss=3.5)
    second = ask(feeds, run, first["offset"])
    assert (second["is_whole"], second["curves"]["loss"]) == (False, {"x": [6_144], "y": [3.5]})
    assert second["bands"] == [
        {"name": "general", "title": "General", "start": 0.0, "end": 6_144.0}
    ]


def test_any_number_of_browsers_and_a_new_app_see_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_follow, "FRESH_SECONDS", 0.0)
    feeds = RunFeeds()
    early = ask(feeds, run)
    append_step(run, 3)
    ask(feeds, run, early["offset"])
    late = ask(feeds, run)
    assert late == ask(RunFeeds(), run)
    assert late["curves"]["loss"]["x"] == [2_048, 4_096, 6_144]


def test_a_resumed_run_is_sent_whole_again(run: Run) -> None:
    """A browser that only appended would draw the repeated steps twice."""
    feeds = RunFeeds()
    first = ask(feeds, run)
    start_stage(run, 1)
    append_event(run, "resumed", stage="general", step=1, message="Resumed.")
    append_step(run, 2, loss=9.0)
    again = ask(feeds, run, first["offset"])
    assert again["is_whole"]
    assert again["curves"]["loss"] == {"x": [2_048, 4_096], "y": [4.0, 9.0]}


def test_a_half_written_line_waits_for_its_end(run: Run) -> None:
    feeds = RunFeeds()
    first = ask(feeds, run)
    with run.events_file.open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "metrics", "stage": "general", "step": 3,')
        stream.flush()
        assert ask(feeds, run, first["offset"])["curves"] == {}
        stream.write(' "tokens": 6144, "loss": 3.0}\n')
    assert ask(feeds, run, first["offset"])["curves"]["loss"] == {"x": [6_144], "y": [3.0]}


def test_nan_reaches_the_browser_as_a_gap_and_a_warning(run: Run) -> None:
    append_step(run, 3, loss=math.nan)
    reply = ask(RunFeeds(), run)
    assert reply["curves"]["loss"]["y"] == [4.0, 4.0, None]
    assert "not finite" in reply["parts"]["notices"]
    assert "NaN" in reply["parts"]["numbers"]


def test_the_list_of_runs_comes_when_asked_for(run: Run) -> None:
    reply = answer(RunFeeds(), {"run": "", "wants_runs": True}, None)
    assert [item["id"] for item in reply["runs"]] == [run.id]
    assert reply["runs"][0]["label"].endswith(", stopped")
    assert not reply["runs"][0]["is_active"]
    assert "runs" not in ask(RunFeeds(), run)


def test_log_and_command_are_plain_text(run: Run) -> None:
    run.log_file.write_text("loss <b>4</b>\n", encoding="utf-8")
    run.command_file.write_text("python -m training run X\n", encoding="utf-8")
    reply = ask(RunFeeds(), run)
    assert reply["log"] == "loss <b>4</b>\n"
    assert "log" not in ask(RunFeeds(), run, log_size=reply["log_size"])
    assert reply["command"] == "python -m training run X"


def test_strangers_see_a_run_without_the_folders_of_its_owner(run: Run) -> None:
    """A public server once showed everyone log and command, full of its owner's paths."""
    run.log_file.write_text(f"Reading {run.folder}\n", encoding="utf-8")
    run.command_file.write_text(f"python -m training run {run.folder}\n", encoding="utf-8")
    question = {"run": run.id, "offset": 0, "wants_runs": True}
    reply = answer(RunFeeds(), question, "Switched off here.")
    assert not {"log", "log_size", "command"} & set(reply)
    assert reply["curves"]["loss"]["y"] == [4.0, 4.0]
    assert str(run.folder.parent) not in json.dumps(reply)
    with pytest.raises(RunError) as caught:
        answer(RunFeeds(), {"run": "missing"}, "Switched off here.")
    assert str(run.folder.parent) not in str(caught.value)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ({"run": "../../etc"}, RunError),
        ({"run": ["a"]}, OptionError),
        ({"run": "x" * 1_000}, OptionError),
        ({"run": "missing"}, RunError),
    ],
)
def test_questions_are_checked(question: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        answer(RunFeeds(), question, None)


@pytest.mark.parametrize("offset", [-1, "0", 1.5, None, True])
def test_offsets_are_checked(run: Run, offset: object) -> None:
    with pytest.raises(OptionError, match="offset"):
        answer(RunFeeds(), {"run": run.id, "offset": offset}, None)


def test_a_log_that_began_anew_is_read_anew(run: Run, tmp_path: Path) -> None:
    feeds = RunFeeds()
    before = ask(feeds, run)
    run.events_file.unlink()
    start_stage(run, 0)
    reply = ask(feeds, run, before["offset"])
    assert reply["is_whole"]
    assert reply["curves"] == {}


def test_points_in_pieces_are_the_points_of_the_whole(run: Run) -> None:
    """A browser that appends must end with the line of one that has just come."""
    feeds = RunFeeds()
    first = ask(feeds, run, x="steps")
    kept, offset = first["curves"]["loss"], first["offset"]
    for step in range(3, 9):
        append_step(run, step, loss=4.0 - step / 10)
        reply = ask(feeds, run, offset, x="steps")
        assert not reply["is_whole"]
        kept = {axis: [*kept[axis], *reply["curves"]["loss"][axis]] for axis in ("x", "y")}
        offset = reply["offset"]
    assert kept == ask(RunFeeds(), run, x="steps")["curves"]["loss"]
    assert kept["x"] == list(range(1, 9))


def test_ten_watchers_cost_the_server_what_one_does(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's HTML and the thinned curves are made once a change, whoever asks; files are read
    once."""
    made: list[str] = []

    def count(module: Any, name: str) -> None:  # noqa: ANN401
        original = getattr(module, name)

        def counted(*values: Any, **named: Any) -> Any:  # noqa: ANN401
            made.append(name)
            return original(*values, **named)

        monkeypatch.setattr(module, name, counted)

    count(train_view, "parts")
    count(train_follow, "curves")
    count(train_follow, "tail_events")
    monkeypatch.setattr(train_follow, "FRESH_SECONDS", 60.0)
    feeds = RunFeeds()
    offsets = [ask(feeds, run)["offset"] for _ in range(10)]
    assert sorted(made) == ["curves", "parts", "tail_events"]
    for step in range(3, 6):
        append_step(run, step)
        made.clear()
        offsets = [ask(feeds, run, offset)["offset"] for offset in offsets]
        assert made == ["tail_events"], "the points are those of the digest"
    write_status(run, Status(state="finished", stage="general", step=20, total_steps=20))
    made.clear()
    assert {ask(feeds, run, offset)["state"] for offset in offsets} == {"finished"}
    assert made == ["parts"], "a new state is shown at once, and made once for all"


def test_a_zoom_gets_the_details_of_its_stretch(run: Run) -> None:
    for step in range(3, 2_001):
        append_step(run, step)
    feeds = RunFeeds()
    question = {"run": run.id, "x": "steps", "max_points": 100}
    whole = read_curves(feeds, {**question, "from": None, "to": None})
    assert set(whole["curves"]) >= {"loss", "gradient_norm"}
    assert len(whole["curves"]["loss"]["x"]) <= 100
    part = read_curves(feeds, {**question, "from": 500, "to": 520, "names": ["loss"]})
    assert part["curves"] == {"loss": {"x": list(range(499, 522)), "y": [4.0] * 23}}
    assert part["bands"][0]["end"] == 2_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": "inches"},
        {"x": None},
        {"names": "loss"},
        {"names": [1]},
        {"names": ["a"] * 1_000},
        {"max_points": 10**9},
        {"max_points": True},
        {"run": "../x"},
    ],
)
def test_questions_for_curves_are_checked(run: Run, wrong: dict[str, object]) -> None:
    with pytest.raises((OptionError, RunError)):
        read_curves(RunFeeds(), {"run": run.id, "x": "tokens", **wrong})


@pytest.mark.parametrize(
    "ends", [(5, 1), ("a", None), (True, 3), (math.nan, 3), (0, math.inf), ([], {}), (0, 10**400)]
)
def test_a_stretch_is_two_numbers_in_order(run: Run, ends: tuple[object, object]) -> None:
    question = {"run": run.id, "x": "steps", "from": ends[0], "to": ends[1]}
    with pytest.raises(OptionError, match="stretch"):
        read_curves(RunFeeds(), question)


def test_a_stretch_may_be_open_at_one_end(run: Run) -> None:
    found = read_curves(RunFeeds(), {"run": run.id, "x": "steps", "from": 2, "to": None})
    assert found["curves"]["loss"]["x"] == [1, 2]


def test_another_file_of_the_same_length_is_no_continuation(run: Run) -> None:
    """A file that was written anew once went on from the middle of the old one.

    It was longer than the old one when it was looked at, and had its number of events; so neither
    its size nor the count that a browser sends tells them apart.
    """
    feeds = RunFeeds()
    before = ask(feeds, run, x="steps")
    num_events = len(run.events_file.read_text(encoding="utf-8").splitlines())
    run.events_file.write_text("", encoding="utf-8")
    start_stage(run, 0)
    for step in range(1, num_events + 3):
        append_step(run, step, loss=7.0)
    again = ask(feeds, run, before["offset"], x="steps")
    assert again["is_whole"]
    assert again["curves"]["loss"]["x"] == list(range(1, num_events + 3))
    assert set(again["curves"]["loss"]["y"]) == {7.0}
    assert not ask(feeds, run, again["offset"])["is_whole"]


def test_a_run_whose_events_are_gone_shows_none(run: Run) -> None:
    feeds = RunFeeds()
    before = ask(feeds, run)
    run.events_file.unlink()
    after = ask(feeds, run, before["offset"])
    assert (after["is_whole"], after["curves"], after["bands"]) == (True, {}, [])


def test_a_browser_that_slept_gets_a_thinned_line(run: Run) -> None:
    feeds = RunFeeds()
    first = ask(feeds, run)
    for step in range(3, MAX_POINTS + 10):
        append_step(run, step)
    late = ask(feeds, run, first["offset"])
    assert late["is_whole"]
    assert len(late["curves"]["loss"]["x"]) <= MAX_POINTS


def test_few_runs_are_held(run: Run) -> None:
    feeds = RunFeeds()
    for _ in range(train_follow.MAX_FEEDS + 2):
        other = create_run(recipe_to_json(find_recipe("practice")), "other")
        ask(feeds, other)
    ask(feeds, run)
    assert len(feeds._feeds) == train_follow.MAX_FEEDS
