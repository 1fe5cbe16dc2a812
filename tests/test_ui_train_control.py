"""A run's buttons, why it ended, and its place in the line, as HTML."""

import re
from dataclasses import replace

import pytest

from stentor.runs import Run, Status, create_run, write_status
from stentor.ui import train_control as control
from training.recipe import recipe_to_json
from training.recipes import find_recipe

EVIL = "<script>alert(1)</script>"


def names(state: str, *, is_stopping: bool = False) -> list[str]:
    html = control.actions(Status(state=state), is_stopping, None)
    return re.findall(r'data-action="(\w+)"', html)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("running", ["stop", "save", "sample", "stop_now", "clone"]),
        ("queued", ["queue_up", "queue_down", "unqueue", "clone", "delete"]),
        ("created", ["start", "enqueue", "clone", "delete"]),
        ("stopped", ["resume", "enqueue", "clone", "delete"]),
        ("failed", ["resume", "enqueue", "clone", "delete"]),
        ("died", ["resume", "enqueue", "clone", "delete"]),
        ("finished", ["hand_over", "clone", "delete"]),
    ],
)
def test_the_buttons_fit_the_state(state: str, expected: list[str]) -> None:
    assert names(state) == expected


def test_every_button_tells_what_happens_next() -> None:
    running = control.actions(Status(state="running"), False, None)
    assert "writes a checkpoint after the present step" in running
    stopping = control.actions(Status(state="running"), True, None)
    assert "disabled" in stopping and "Stopping" in stopping and "Stop now" in stopping
    stopped = control.actions(Status(state="stopped", checkpoint="general-000015"), False, None)
    assert "verifies the last checkpoint, general-000015, first" in stopped


def test_a_refusal_takes_the_place_of_every_button() -> None:
    for state in ("running", "queued", "created", "stopped", "died", "finished"):
        html = control.actions(Status(state=state), False, EVIL)
        assert "<button" not in html and "&lt;script&gt;" in html


@pytest.fixture
def dead_run() -> tuple[Run, Status]:
    run = create_run({}, "x")
    lines = [f"line {number}" for number in range(100)]
    run.log_file.write_text("\n".join([*lines, EVIL]), encoding="utf-8")
    return run, Status(state="died", stage="general", step=7, error=EVIL)


def test_a_dead_run_says_where_and_why_with_its_last_lines(dead_run: tuple[Run, Status]) -> None:
    html = control.trouble(*dead_run, None)
    assert "Died at step 7 of general" in html
    assert "line 99" in html and "line 50" not in html
    assert "<script>" not in html and html.count("&lt;script&gt;") == 2


def test_strangers_do_not_see_the_log_of_a_dead_run(dead_run: tuple[Run, Status]) -> None:
    html = control.trouble(*dead_run, "Switched off here.")
    assert "Died at step 7" in html and "line 99" not in html


def test_what_was_asked_for_is_no_trouble() -> None:
    """A run that was ended on request said so in the red box of a failure."""
    run = create_run({}, "x")
    assert control.trouble(run, Status(state="stopped", error="Ended on request."), None) == ""
    assert "before its first stage" in control.trouble(run, Status(state="failed"), None)


def in_line(devices: str, place: float) -> tuple[Run, Status]:
    recipe = replace(find_recipe("practice"), devices=devices)
    run = create_run(recipe_to_json(recipe), "practice")
    status = Status(state="queued", queue_place=place)
    write_status(run, status)
    return run, status


def test_a_run_in_line_knows_its_place_among_those_that_want_its_devices() -> None:
    first, other, second, last = (
        in_line(devices, place) for devices, place in (("0", 1), ("1", 2), ("0", 3), ("", 4))
    )
    assert "Next in line for GPU 0." in control.queue_note(*first)
    assert "Next in line for GPU 1." in control.queue_note(*other)
    html = control.queue_note(*second)
    assert "Second in line for GPU 0." in html
    assert html.index(first[0].id) < html.index(second[0].id) < html.index(last[0].id)
    assert other[0].id not in html
    assert "Fourth in line for all devices." in control.queue_note(*last)
    assert control.queue_note(first[0], Status(state="stopped")) == ""


def test_who_died_says_where_only_once(dead_run: tuple[Run, Status]) -> None:
    run, status = dead_run
    told = replace(status, error="Died at step 7 of general: the machine was restarted.")
    html = control.trouble(run, told, None)
    assert html.count("Died at step 7") == 1 and "<p>The machine was restarted.</p>" in html
