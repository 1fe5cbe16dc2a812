"""The parts of a run's page as HTML."""

import pytest

from stentor.runs import Run, Status, create_run
from stentor.ui import train_view as view
from stentor.ui.chart import Digest
from stentor.ui.train_cards import STATE_WORDS
from stentor.ui.train_monitor import MONITOR
from training.recipe import recipe_to_json
from training.recipes import find_recipe

EVIL = "<script>alert(1)</script>"


def alarm(
    name: str, step: int, state: str = "raised", message: str = "Mind this."
) -> dict[str, object]:
    return {
        "kind": "alarm",
        "alarm": name,
        "state": state,
        "message": message,
        "stage": "general",
        "step": step,
        "tokens": step * 2_048,
        "value": 9.0,
        "limit": 5.0,
    }


def test_every_part_has_its_place_in_the_page() -> None:
    recipe = find_recipe("practice")
    run = create_run(recipe_to_json(recipe), "practice")
    parts = view.parts(run, recipe, Status(), Digest(), None)
    for name in parts:
        assert f'data-part="{name}"' in MONITOR
    assert all(isinstance(html, str) for html in parts.values())


@pytest.mark.parametrize("state", list(STATE_WORDS))
def test_every_state_has_words(state: str) -> None:
    recipe = find_recipe("practice")
    run = create_run(recipe_to_json(recipe), "practice")
    html = view.heading(run, recipe, Status(state=state), Digest())
    assert STATE_WORDS[state] in html
    assert STATE_WORDS[state] in view.run_label(run, state)


def test_the_time_left_is_that_of_the_present_session() -> None:
    """A resumed run once took the steps of all sessions for those of its own few minutes."""
    recipe = find_recipe("practice")
    total = sum(stage.total_steps() for stage in recipe.stages)
    digest = Digest()
    digest.feed(
        [
            {
                "kind": "stage_started",
                "stage": "textbook",
                "tokens": (total - 10) * 2_048,
                "t": 10.0,
            },
            *(
                {
                    "kind": "metrics",
                    "stage": "textbook",
                    "step": 10 + step,
                    "tokens": (total - 10 + step) * 2_048,
                    "tokens_per_second": 1_024.0,
                    "loss": 3.0,
                    "t": 10.0 + 2 * step,
                }
                for step in range(1, 6)
            ),
        ]
    )
    html = view.heading(create_run({}, "x"), recipe, Status(state="running"), digest)
    assert "about 10 s left" in html


def test_an_alarm_can_be_put_away_without_hiding_the_next_of_its_kind() -> None:
    run, digest = create_run({}, "x"), Digest()
    digest.feed([alarm("spike", 3), alarm("disk_low", 4, message="1 GB is left.")])
    first = view.alarms(run, digest)
    assert 'role="alert"' in first and first.count("<li") == 2
    assert first.index("1 GB is left.") < first.index("Mind this.")
    digest.feed([alarm("disk_low", 5, state="cleared"), alarm("spike", 6, state="cleared")])
    assert view.alarms(run, digest) == ""
    metrics = {"kind": "metrics", "stage": "general", "step": 9, "tokens": 9 * 2_048, "loss": 3.0}
    digest.feed([metrics, alarm("spike", 9)])
    key = view.alarms(run, digest).split('data-alarm="')[1].split('"')[0]
    assert key not in first


def test_untrusted_text_is_escaped_everywhere() -> None:
    digest = Digest()
    digest.feed(
        [
            {"kind": "machine", "name": EVIL, "num_cores": EVIL, "torch_version": EVIL},
            {"kind": "warning", "message": EVIL},
            {"kind": "stage_started", "stage": EVIL, "tokens": 0, "total_steps": 1},
            {"kind": "metrics", "stage": EVIL, "step": 1, "tokens": 1, "loss": 1.0},
            {**alarm(EVIL, 1, message=EVIL), "stage": EVIL},
        ]
    )
    recipe = find_recipe("practice")
    run = create_run(recipe_to_json(recipe), "x")
    status = Status(state="failed", stage=EVIL, error=EVIL, checkpoint=EVIL)
    for refusal in (None, EVIL):
        for name, html in view.parts(run, recipe, status, digest, refusal).items():
            assert "<script>" not in html, name


def test_labels_of_runs_are_dates_for_people() -> None:
    run = Run(create_run({}, "x").folder.parent / "20261122-122447-practice-0069")
    assert view.run_label(run, "running") == "practice-0069, 22 Nov 12:24, running"
    odd = Run(run.folder.parent / "mine")
    assert view.run_label(odd, "finished") == "mine, finished"


def test_a_date_that_is_none_and_a_state_of_a_newer_trainer_do_not_end_the_list() -> None:
    """One such folder once made the page say for ever that the playground does not answer."""
    run = Run(create_run({}, "x").folder.parent / "20269999-000000-x")
    assert view.run_label(run, "finished") == "20269999-000000-x, finished"
    assert view.run_label(run, "paused") == "20269999-000000-x, paused"
    html = view.heading(run, find_recipe("practice"), Status(state=EVIL), Digest())
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_message_is_not_shown_twice() -> None:
    digest = Digest()
    digest.feed([{"kind": "error", "message": "Out of memory."}])
    assert "Out of memory." in view.notices(digest)
    assert view.notices(digest, shown="Out of memory.") == ""
    digest.feed([{"kind": "error", "message": "Out of memory."}])
    assert view.notices(digest).count("Out of memory.") == 1


def test_the_newest_numbers_say_where_they_are_from() -> None:
    digest = Digest()
    digest.feed(
        [
            {"kind": "stage_started", "stage": "general", "tokens": 0, "total_steps": 20},
            {
                "kind": "metrics",
                "stage": "general",
                "step": 1_500,
                "tokens": 10,
                "loss": 3.25,
                "mfu": 0.4217,
            },
        ]
    )
    html = view.numbers_table(digest)
    assert "general, step 1,500" in html
    assert "3.250" in html and "42.2%" in html
