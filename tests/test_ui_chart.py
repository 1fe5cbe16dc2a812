"""Curves from events: resumed runs, values that are no numbers, long runs."""

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stentor.ui import chart_table
from stentor.ui.chart import MAX_POINTS, Digest
from stentor.ui.chart_table import thin
from stentor.ui.train_follow import curves

TOKENS_PER_STEP = 2_048


def started(stage: str, tokens: int, step: int = 0) -> dict[str, Any]:
    return {
        "kind": "stage_started",
        "t": 100.0,
        "stage": stage,
        "stage_kind": "pretrain",
        "title": stage.title(),
        "step": step,
        "total_steps": 10,
        "tokens": tokens,
    }


def metrics(stage: str, step: int, loss: float, before: int = 0) -> dict[str, Any]:
    return {
        "kind": "metrics",
        "stage": stage,
        "step": step,
        "tokens": before + step * TOKENS_PER_STEP,
        "loss": loss,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0,
        "tokens_per_second": 900.0,
    }


def validation(stage: str, step: int, loss: float, before: int = 0) -> dict[str, Any]:
    tokens = before + step * TOKENS_PER_STEP
    return {"kind": "validation", "stage": stage, "step": step, "tokens": tokens, "loss": loss}


def digest_of(*events: dict[str, Any]) -> Digest:
    digest = Digest()
    digest.feed(events)
    return digest


def test_a_run_that_was_killed_and_resumed_draws_one_line() -> None:
    """Steps 3 and 4 came after the last checkpoint, so the resumed run repeats them.

    Drawn as written, the line would run back from 4 to 3; and the validation at step 4 of the
    lost part must not stand beyond the end of the line.
    """
    digest = digest_of(
        started("general", 0),
        *(metrics("general", step, loss=5.0 - step) for step in (1, 2, 3, 4)),
        validation("general", 4, loss=9.0),
        started("general", 2 * TOKENS_PER_STEP, step=2),
        {"kind": "resumed", "stage": "general", "step": 2, "message": "Resumed."},
        metrics("general", 3, loss=2.5),
    )
    points = digest.training.points("loss")
    assert [(point.step, point.value) for point in points] == [(1, 4.0), (2, 3.0), (3, 2.5)]
    assert digest.validation.points("validation") == []
    tokens = [point.tokens for point in points]
    assert tokens == sorted(tokens)
    assert digest.notices[-1]["message"] == "Resumed."


def test_stages_join_and_keep_both_validations_where_they_meet() -> None:
    end = 2 * TOKENS_PER_STEP
    digest = digest_of(
        started("general", 0),
        validation("general", 0, 5.0),
        metrics("general", 1, 4.9),
        metrics("general", 2, 4.8),
        validation("general", 2, 4.0),
        started("story", end),
        validation("story", 0, 6.0, before=end),
        metrics("story", 1, 5.9, before=end),
    )
    assert [p.value for p in digest.validation.points("validation")] == [5.0, 4.0, 6.0]
    assert digest.bands("tokens") == [
        {"name": "general", "title": "General", "start": 0.0, "end": end},
        {"name": "story", "title": "Story", "start": end, "end": end + TOKENS_PER_STEP},
    ]
    assert [(band["start"], band["end"]) for band in digest.bands("steps")] == [(0, 2), (2, 3)]
    assert curves(digest, "steps")["loss"]["x"] == [1, 2, 3]
    assert digest.first("validation", "story") == 6.0
    assert digest.last("validation", "general") == 4.0
    assert digest.last("loss") == 5.9


def test_nan_and_infinity_become_gaps_in_valid_json() -> None:
    digest = digest_of(
        started("general", 0),
        metrics("general", 1, 5.0),
        metrics("general", 2, math.nan),
        metrics("general", 3, math.inf),
        metrics("general", 4, 4.0),
    )
    curve = curves(digest, "tokens")["loss"]
    assert curve["y"] == [5.0, None, None, 4.0]
    json.dumps(curve, allow_nan=False)
    assert [(name, count, point.step) for name, count, point in digest.not_finite()] == [
        ("loss", 2, 2)
    ]
    assert math.isnan(digest.training.points("loss")[1].value)


def test_a_long_run_is_thinned_without_losing_spikes_or_gaps() -> None:
    values = 2.0 + np.sin(np.arange(50_000) / 900)
    values[31_234], values[17_777], values[40_000] = 99.0, math.nan, -5.0
    places = thin(values, MAX_POINTS)
    assert len(places) <= MAX_POINTS
    assert {0, 17_777, 31_234, 40_000, 49_999} <= set(places.tolist())
    assert np.isnan(values[places]).sum() == 1
    assert places.tolist() == sorted(set(places.tolist()))
    assert thin(values[:MAX_POINTS], MAX_POINTS).tolist() == list(range(MAX_POINTS))


def test_every_stretch_of_a_long_run_keeps_its_extremes() -> None:
    """100,000 points are more than a screen has; a zoom into a few asks for those."""
    digest = digest_of(started("general", 0))
    generator = np.random.default_rng(3)
    losses = 4.0 + generator.normal(0, 0.1, 100_000)
    digest.feed(metrics("general", step, loss) for step, loss in enumerate(losses.tolist(), 1))
    whole = curves(digest, "steps")["loss"]
    assert len(whole["x"]) <= MAX_POINTS
    shown = np.array(whole["y"])
    edges = np.linspace(0, 100_000, 301).astype(int)
    for first, last in pairwise(edges.tolist()):
        inside = (np.array(whole["x"]) > first) & (np.array(whole["x"]) <= last)
        assert inside.any()
    assert shown.max() == float(f"{losses.max():.6g}") and shown.min() == float(
        f"{losses.min():.6g}"
    )
    part = curves(digest, "steps", stretch=(5_000.0, 5_100.0))["loss"]
    assert part["x"] == list(range(4_999, 5_102)), "every step, and one on either side"


def test_growth_finish_and_machine_are_kept() -> None:
    digest = digest_of(
        started("expand", 0),
        {"kind": "growth", "stage": "expand", "loss_before": 5.0, "loss_after": 5.0},
        {"kind": "machine", "name": "CPU"},
        {"kind": "system", "cpu_percent": 90.0},
        {"kind": "stage_finished", "t": 130.0, "stage": "expand", "tokens": 0},
    )
    stage = digest.stages["expand"]
    assert stage.growth is not None
    assert stage.growth["loss_after"] == 5.0
    assert (stage.started, stage.finished) == (100.0, 130.0)
    assert (digest.machine["name"], digest.system["cpu_percent"]) == ("CPU", 90.0)


def test_unknown_kinds_and_damaged_records_are_passed_over() -> None:
    digest = digest_of(
        {"kind": "confetti"},
        {"kind": "metrics"},
        {"kind": "metrics", "stage": 3, "step": "x", "tokens": None},
        {"kind": "metrics", "stage": "general", "step": 1, "tokens": math.nan, "loss": 1.0},
        {"kind": "stage_finished", "stage": "never started"},
        {"kind": "stage_started", "stage": None},
        {"kind": "validation", "stage": "general", "step": 1, "tokens": 5, "loss": "low"},
        metrics("general", 1, 3.0),
    )
    assert [p.value for p in digest.training.points("loss")] == [3.0]
    assert digest.stages == {}


def test_pauses_between_stop_and_resume_are_no_time_of_training() -> None:
    """A run that was stopped overnight once had a flat line of eight hours in its middle."""
    night = 8 * 3_600.0
    digest = digest_of(
        {"kind": "machine", "t": 100.0},
        {**started("general", 0), "t": 110.0},
        *({**metrics("general", step, 5.0 - step), "t": 110.0 + step} for step in (1, 2, 3)),
        {"kind": "machine", "t": night},
        {**started("general", 2 * TOKENS_PER_STEP, step=2), "t": night + 4},
        {"kind": "resumed", "t": night + 4, "stage": "general", "step": 2, "message": "Resumed."},
        {**metrics("general", 3, 2.5), "t": night + 5},
    )
    curve = curves(digest, "time")["loss"]
    assert curve == {"x": [11.0, 12.0, 13.0], "y": [4.0, 3.0, 2.5]}
    assert [place.on("time") for place in digest.resumes] == [12.0]
    assert [place.on("steps") for place in digest.resumes] == [2.0]
    assert digest.rewound == 7, "a browser that has step 3 of the first try must forget it"


def test_the_pace_after_a_resume_is_that_of_the_present_process() -> None:
    digest = digest_of(
        {"kind": "machine", "t": 0.0},
        {**started("general", 0), "t": 1.0},
        *({**metrics("general", step, 5.0), "t": 10.0 * step} for step in range(1, 9)),
        {"kind": "machine", "t": 5_000.0},
        {**started("general", 8 * TOKENS_PER_STEP, step=8), "t": 5_001.0},
    )
    total = 20 * TOKENS_PER_STEP
    assert digest.seconds_left(total) is None, "nothing is known yet"
    digest.feed({**metrics("general", 8 + step, 5.0), "t": 5_001.0 + step} for step in (1, 2, 3))
    assert digest.seconds_left(total) == 9.0


def test_each_source_and_each_gpu_has_its_own_curve() -> None:
    system = {
        "kind": "system",
        "cpu_percent": 50.0,
        "gpu": [
            {"index": 0, "name": "RTX 4090", "power_watts": 400.0, "temperature": None},
            {"index": 1, "name": "RTX 4090", "power_watts": 380.0, "utilisation": 99},
        ],
    }
    digest = digest_of(
        started("general", 0),
        {**validation("general", 0, 5.0), "by_source": {"hub": 4.5, "own <b>": 5.5}},
        metrics("general", 1, 4.9),
        system,
    )
    found = curves(digest, "tokens")
    assert found["validation:own <b>"]["y"] == [5.5]
    assert found["gpu1_power"] == {"x": [2_048.0], "y": [380.0]}
    assert "gpu0_temperature" not in found and found["gpu1_utilisation"]["y"] == [99.0]
    assert [gpu["name"] for gpu in digest.gpus()] == ["RTX 4090", "RTX 4090"]


def sample(point: str, stage: str, step: int, tokens: int, text: str) -> dict[str, Any]:
    return {
        "kind": "sample",
        "point": point,
        "stage": stage,
        "step": step,
        "tokens": tokens,
        "number": 0,
        "prompt": "One morning",
        "text": text,
    }


def test_samples_are_pinned_where_they_were_written_and_repeated_ones_replaced() -> None:
    digest = digest_of(
        started("expand", 0),
        sample("base", "expand", 0, 0, " it rained."),
        {"kind": "growth", "stage": "expand", "loss_before": 5.0, "loss_after": 5.1},
        sample("grown", "expand", 0, 0, " it rained."),
        started("general", 0),
        metrics("general", 1, 4.9),
        validation("general", 1, 4.5),
        sample("checkpoint", "general", 1, TOKENS_PER_STEP, " it poured."),
        sample("checkpoint", "general", 1, TOKENS_PER_STEP, " it snowed."),
    )
    marks = digest.marks("tokens")
    assert [(mark["key"], mark["x"], mark["y"]) for mark in marks] == [
        ("base", 0.0, None),
        ("expand-0", 0.0, 5.1),
        ("general-1", TOKENS_PER_STEP, 4.5),
    ]
    assert marks[2]["texts"] == ["One morning it snowed."]


def test_a_raised_alarm_is_open_until_it_is_cleared() -> None:
    def alarm(name: str, state: str, message: str = "") -> dict[str, Any]:
        values = {"stage": "general", "step": 1, "tokens": TOKENS_PER_STEP}
        return {"kind": "alarm", "alarm": name, "state": state, "message": message, **values}

    digest = digest_of(alarm("spike", "raised", "High."), alarm("stall", "raised", "Silent."))
    assert list(digest.open_alarms) == ["spike", "stall"]
    digest.feed([alarm("spike", "cleared", "Back."), alarm("never raised", "cleared")])
    assert list(digest.open_alarms) == ["stall"]
    assert [(a.name, a.message, a.is_open) for a in digest.alarms] == [
        ("spike", "High.", False),
        ("stall", "Silent.", True),
    ]


def test_a_run_that_falls_back_to_an_earlier_stage_forgets_what_came_after() -> None:
    """The last checkpoint was damaged, so the run goes on from one of the stage before.

    Its second stage, samples and alarms once stayed where they had been, beyond the line's end.
    """
    end = 3 * TOKENS_PER_STEP
    alarm = {"kind": "alarm", "state": "raised", "message": "High."}
    digest = digest_of(
        started("general", 0),
        *(metrics("general", step, 5.0 - step) for step in (1, 2, 3)),
        sample("checkpoint", "general", 2, 2 * TOKENS_PER_STEP, " kept."),
        started("story", end),
        metrics("story", 1, 9.0, before=end),
        sample("checkpoint", "story", 1, end + TOKENS_PER_STEP, " forgotten."),
        {**alarm, "alarm": "spike", "tokens": end},
        {**alarm, "alarm": "spike", "tokens": end, "state": "cleared"},
        {**alarm, "alarm": "disk_low", "tokens": end},
        started("general", 2 * TOKENS_PER_STEP, step=2),
    )
    assert list(digest.stages) == ["general"]
    assert [item["text"] for item in digest.samples] == [" kept."]
    assert [(item.name, item.tokens) for item in digest.alarms] == [
        ("disk_low", 2.0 * TOKENS_PER_STEP)
    ]
    assert digest.metrics["stage"] == "story", "the newest numbers are history, and stay"


def test_growing_takes_time_although_it_has_no_steps() -> None:
    """A stage that is repeated from its first step begins after the growth, not at zero."""
    digest = digest_of(
        {"kind": "machine", "t": 0.0},
        {**started("expand", 0), "t": 1.0},
        {"kind": "stage_finished", "t": 61.0, "stage": "expand", "tokens": 0},
        {**started("general", 0), "t": 62.0},
        {**metrics("general", 1, 5.0), "t": 70.0},
        {"kind": "machine", "t": 900.0},
        {**started("general", 0), "t": 900.0},
        {**metrics("general", 1, 5.0), "t": 908.0},
    )
    assert curves(digest, "time")["loss"] == {"x": [70.0], "y": [5.0]}
    assert [(band["start"], band["end"]) for band in digest.bands("time")] == [
        (1.0, 61.0),
        (62.0, 70.0),
    ]


def test_a_machine_that_slept_does_not_change_what_is_left() -> None:
    """The mean of the steps once promised ten hours after a laptop had been closed for one."""
    moments = [1.0, 2.0, 3.0, 3_600.0, 3_601.0, 3_602.0]
    digest = digest_of(
        {**started("general", 0), "t": 0.0},
        *({**metrics("general", step, 5.0), "t": t} for step, t in enumerate(moments, 1)),
    )
    assert digest.seconds_left(16 * TOKENS_PER_STEP) == 10.0
    digest.feed([{**started("story", 6 * TOKENS_PER_STEP), "t": 3_603.0}])
    assert digest.seconds_left(16 * TOKENS_PER_STEP) is None, "another stage has another pace"


def test_the_memory_of_an_endless_run_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_table, "MAX_ROWS", 2_000)
    digest = digest_of(started("general", 0))
    losses = [4.0 + math.sin(step) for step in range(1, 20_001)]
    losses[5_000], losses[6_000] = 99.0, math.nan
    digest.feed(metrics("general", step, loss) for step, loss in enumerate(losses[:9_000], 1))
    before = 9_000 * TOKENS_PER_STEP
    digest.feed([started("story", before)])
    digest.feed(metrics("story", step, loss, before) for step, loss in enumerate(losses[9_000:], 1))
    assert len(digest.training) <= 2_000
    kept = digest.training.points("loss")
    assert {99.0, min(losses)} <= {point.value for point in kept}
    assert any(math.isnan(point.value) for point in kept)
    tokens = [point.tokens for point in kept]
    assert tokens == sorted(set(tokens)) and tokens[-1] == 20_000 * TOKENS_PER_STEP
    assert digest.first("loss", "story") == losses[9_000]
    assert digest.last("loss", "general") == losses[8_999]
    assert digest.loss_at("story", 11_000) == losses[-1]
    digest.feed([started("story", before + 100 * TOKENS_PER_STEP, step=100)])
    assert digest.training.points("loss")[-1].step <= 100


def test_odd_numbers_never_reach_a_browser() -> None:
    """JSON text may hold NaN as a time and whole numbers that no float can hold."""
    huge = 10**400
    digest = digest_of(
        {**started("general", 0), "t": math.nan},
        {**metrics("general", 1, 5.0), "t": math.inf},
        {**metrics("general", 2, 5.0), "tokens": huge},
        {**metrics("general", 2, 5.0), "step": huge},
        {**metrics("general", -2, 5.0), "tokens": 3 * TOKENS_PER_STEP},
        {**metrics("general", 2, 5.0), "loss": huge},
        {**sample("checkpoint", "general", 1, 0, ""), "tokens": math.nan, "step": huge},
        {"kind": "alarm", "alarm": "spike", "state": "raised", "tokens": math.inf, "step": huge},
        {"kind": "system", "cpu_percent": huge, "gpu": [{"index": huge, "power_watts": math.nan}]},
        {"kind": "stage_finished", "stage": "general", "t": math.nan, "tokens": math.inf},
    )
    for axis in ("tokens", "steps", "time"):
        shown = [curves(digest, axis), digest.along(axis), digest.marks(axis)]
        json.dumps(shown, allow_nan=False)
    assert curves(digest, "steps")["loss"] == {"x": [1.0], "y": [5.0]}
