"""What a watching browser is told, from real run folders."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stentor.errors import OptionError, RunError
from stentor.runs import Run, Status, append_event, create_run, write_status
from stentor.ui.train_feed import RunFeeds, answer
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
    assert (nothing["is_whole"], nothing["curves"]["loss"]["x"]) == (False, [])
    append_step(run, 3, loss=3.5)
    second = ask(feeds, run, first["offset"])
    assert (second["is_whole"], second["curves"]["loss"]) == (False, {"x": [6_144], "y": [3.5]})
    assert second["bands"] == [{"name": "general", "start": 0.0, "end": 6_144.0}]


def test_any_number_of_browsers_and_a_new_app_see_the_same(run: Run) -> None:
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
        assert ask(feeds, run, first["offset"])["curves"]["loss"]["x"] == []
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
    assert reply["curves"]["loss"]["x"] == []
