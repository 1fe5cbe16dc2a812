"""training/growth_comparison: plan.py and options.py."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from growth_results import TARGET, plan_of

from stentor.errors import OptionError, RunError
from stentor.knobs import from_json
from training.growth_comparison.options import (
    CONTINUED,
    DEFAULT_STRATEGY,
    PRESETS,
    SCRATCH,
    ComparisonOptions,
    growth_of,
    in_words,
)
from training.growth_comparison.plan import (
    MIN_STEPS,
    NUM_POINTS,
    Plan,
    Speeds,
    check_same,
    describe_plan,
    duration,
    evaluation_steps,
    make_plan,
    read_plan,
    with_steps,
    write_plan,
)
from training.settings import ExpandSettings

# About the embedded pair on two cores.
SPEEDS = Speeds(0.27, 0.9, 0.3, 1.2, 1.5)


def sized(speeds: Speeds, spent: float = 15.0, **options: object) -> Plan:
    asked = ComparisonOptions(**options)  # type: ignore[arg-type]
    return with_steps(make_plan(asked, "sha256:0", TARGET, None), speeds, spent)


def test_every_preset_holds_both_controls_and_known_strategies() -> None:
    for preset in PRESETS.values():
        assert {CONTINUED, SCRATCH, DEFAULT_STRATEGY} <= set(preset.strategies)
        for strategy in preset.strategies:
            growth = growth_of(strategy)
            assert growth is None or from_json(ExpandSettings, growth)
            assert in_words(strategy)
    assert PRESETS["hour"].num_seeds >= 3


def test_a_strategy_that_does_not_exist_is_refused_with_what_does() -> None:
    with pytest.raises(OptionError, match="zero_pad"):
        growth_of("zero_pat+identity_interleave")
    with pytest.raises(OptionError, match="WIDTH\\+DEPTH"):
        growth_of("zero_pad")
    with pytest.raises(OptionError, match="clone:noise"):
        growth_of("clone+identity_back")


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_steps_fill_the_minutes_of_any_machine(factor: float) -> None:
    speeds = Speeds(*(factor * value for value in vars(SPEEDS).values()))
    plan = sized(speeds)
    assert 0.9 * 300 < plan.predicted_seconds <= 300
    assert plan.steps >= 10
    hour = sized(speeds, preset="hour")
    assert 0.9 * 3600 < hour.predicted_seconds <= 3600


def test_a_slow_machine_is_told_that_it_takes_longer() -> None:
    plan = sized(Speeds(20, 60, 10, 30, 20))
    assert plan.steps == MIN_STEPS
    assert plan.predicted_seconds > 330
    assert "more than 5 minutes" in "\n".join(describe_plan(plan, "text"))


def test_steps_that_were_asked_for_stay() -> None:
    plan = sized(SPEEDS, steps=1000)
    assert plan.steps == 1000
    assert plan.predicted_seconds > 3000


def test_measurements_are_close_together_at_first() -> None:
    steps = evaluation_steps(50)
    assert steps[0] == 0
    assert steps[-1] == 50
    assert len(steps) == NUM_POINTS + 1
    assert steps[5] < 25
    assert evaluation_steps(1) == [0, 1]


def test_whole_seeds_come_first() -> None:
    plan = plan_of(preset="hour", num_seeds=2)
    assert [seed for _, _, seed in plan.runs] == [0] * 16 + [1] * 16
    assert len(set(plan.runs)) == len(plan.runs)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = plan_of(preset="hour")
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan


def test_a_foreign_plan_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"model": "demo-base"}))
    with pytest.raises(RunError, match=r"plan\.json"):
        read_plan(tmp_path)
    write_plan(tmp_path, replace(plan_of(), strategies=("magic",)))
    with pytest.raises(RunError, match="magic"):
        read_plan(tmp_path)


def test_a_rerun_may_not_change_what_the_folder_holds() -> None:
    stored = plan_of()
    check_same(stored, replace(stored, steps=0), ())
    with pytest.raises(OptionError, match="steps 3, not 7"):
        check_same(stored, replace(stored, steps=7), ("steps",))
    with pytest.raises(OptionError, match="hidden size 256, not 512"):
        wide = replace(stored, target=replace(stored.target, hidden_size=512))
        check_same(stored, wide, ("hidden_size",))
    with pytest.raises(OptionError, match="strategies"):
        check_same(stored, plan_of(preset="hour"), ("preset",))
    with pytest.raises(OptionError, match="revision"):
        check_same(stored, replace(stored, revision="sha256:other"), ())


def test_impossible_choices_are_refused() -> None:
    for options in (
        ComparisonOptions(rate_factors=(0.0,)),
        ComparisonOptions(rate_factors=(1.0, 1.0)),
        ComparisonOptions(strategies=(SCRATCH, SCRATCH)),
        ComparisonOptions(strategies=("nothing",)),
    ):
        with pytest.raises(OptionError):
            make_plan(options, "", TARGET, None)


def test_times_for_people() -> None:
    assert [duration(seconds) for seconds in (0.4, 247, 3735)] == ["0:00", "4:07", "1:02:15"]


def test_a_folder_of_something_else_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """A file ended in a traceback after a minute; results were strewn into a folder of work."""
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for output in (file, tmp_path):
        with pytest.raises(RunError, match=r"holds no comparison\. Give another --output"):
            read_plan(output)
    begun = tmp_path / "begun"  # Ctrl-C came while its text was prepared
    (begun / "data").mkdir(parents=True)
    assert read_plan(begun) is None
