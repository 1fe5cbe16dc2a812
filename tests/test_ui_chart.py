"""Curves from events: resumed runs, values that are no numbers, long runs."""

import json
import math
from typing import Any

from stentor.ui.chart import MAX_POINTS, Digest, Point, curves_to_json, thin

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
    assert [(p.step, p.value) for p in digest.curves["loss"]] == [(1, 4.0), (2, 3.0), (3, 2.5)]
    assert digest.curves["validation"] == []
    tokens = [p.tokens for p in digest.curves["loss"]]
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
    assert [p.value for p in digest.curves["validation"]] == [5.0, 4.0, 6.0]
    assert digest.bands() == [
        {"name": "general", "start": 0.0, "end": end},
        {"name": "story", "start": end, "end": end + TOKENS_PER_STEP},
    ]
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
    curve = curves_to_json(digest.curves)["loss"]
    assert curve["y"] == [5.0, None, None, 4.0]
    json.dumps(curve, allow_nan=False)
    assert [(name, count, point.step) for name, count, point in digest.not_finite()] == [
        ("loss", 2, 2)
    ]
    assert math.isnan(digest.curves["loss"][1].value)


def test_a_long_run_is_thinned_without_losing_spikes_or_gaps() -> None:
    points = [Point(i, 2.0 + math.sin(i / 900), "general", i) for i in range(50_000)]
    points[31_234] = points[31_234]._replace(value=99.0)
    points[17_777] = points[17_777]._replace(value=math.nan)
    thinned = thin(points)
    assert len(thinned) <= MAX_POINTS
    assert max(p.value for p in thinned if math.isfinite(p.value)) == 99.0
    assert sum(math.isnan(p.value) for p in thinned) == 1
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert [p.tokens for p in thinned] == sorted(p.tokens for p in thinned)
    assert thin(points[:MAX_POINTS]) == points[:MAX_POINTS]


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
    assert [p.value for p in digest.curves["loss"]] == [3.0]
    assert digest.stages == {}
