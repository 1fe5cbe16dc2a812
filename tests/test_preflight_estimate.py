"""What is counted, what the disk holds and what the power was, on values made by hand."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import TRAINING

from stentor.gpus import Gpu
from stentor.runs import append_event, create_run, read_events
from training.preflight.disk_use import CheckpointSizes, StageDisk, run_disk, stage_disk
from training.preflight.estimate import num_checkpoints, num_validations
from training.preflight.measures import measure_stage
from training.preflight.power import PowerMeter, RaplCounter
from training.preflight.report import Problem, Report, StageFigures, Total, Window
from training.preflight.show import describe_report, duration, energy
from training.recipe import Stage
from training.settings import PretrainSettings

SIZES = CheckpointSizes(to_resume=300, final=100)


def steps_of(settings: PretrainSettings) -> tuple[int, int]:
    """Count validations and checkpoints one by one, as stages/pretraining.py makes them."""
    total = settings.total_steps()
    validations, checkpoints = 2, 1  # before the first step, and at the end
    for step in range(1, total):
        saves = step % settings.checkpoint_every == 0
        checkpoints += saves
        validations += step % settings.validate_every == 0 or (settings.keep_best and saves)
    return validations, checkpoints


@pytest.mark.parametrize("total", [1, 12, 100])
@pytest.mark.parametrize(("validate", "save"), [(6, 4), (5, 5), (1, 7), (1000, 1000)])
@pytest.mark.parametrize("keep_best", [True, False])
def test_validations_and_checkpoints_are_counted(
    total: int, validate: int, save: int, keep_best: bool
) -> None:
    settings = replace(
        TRAINING,
        num_steps=total,
        validate_every=validate,
        checkpoint_every=save,
        keep_best=keep_best,
    )
    assert (num_validations(settings), num_checkpoints(settings)) == steps_of(settings)


@pytest.mark.parametrize("keep_last", [1, 2, 5])
@pytest.mark.parametrize("keep_best", [True, False])
def test_the_disk_of_a_stage_is_that_of_its_checkpoints_at_their_most(
    keep_last: int, keep_best: bool
) -> None:
    """Write and prune step by step, with the best always an old one: its worst case."""
    settings = replace(
        TRAINING, num_steps=100, checkpoint_every=10, keep_last=keep_last, keep_best=keep_best
    )
    held: list[int] = []
    best, peak = 0, 0
    for _ in range(9):
        peak = max(peak, sum(held) + best + SIZES.to_resume)
        held.append(SIZES.to_resume)
        if len(held) > keep_last:
            old = held.pop(0)
            best = old if keep_best else 0
    peak = max(peak, sum(held) + best + SIZES.final)
    beside = stage_disk(settings, CheckpointSizes(0, 0), 50).peak
    disk = stage_disk(settings, SIZES, 50)
    assert disk.peak == peak + beside
    assert disk.left == (min(9, keep_last - 1) * SIZES.to_resume + SIZES.final) + beside
    for fraction in (0.05, 0.1):  # a checkpoint more to write, or one of those kept for the branch
        branching = stage_disk(replace(settings, branch_fraction=fraction), SIZES, 50)
        assert branching.peak == disk.peak + SIZES.to_resume
        assert branching.left == disk.left + SIZES.to_resume


def test_a_run_is_fullest_where_what_is_left_and_the_work_are_most() -> None:
    assert run_disk([StageDisk(90, 10), StageDisk(20, 20), StageDisk(70, 5)]) == StageDisk(100, 35)
    assert run_disk([]) == StageDisk(0, 0)


def zone(root: Path, name: str, energy_uj: int, most: int = 10_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_a_processors_counter_wraps_and_its_parts_do_not_count_twice(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", 9_000_000)
    zone(tmp_path, "intel-rapl:1", 1_000_000)
    part = zone(tmp_path, "intel-rapl:0:0", 500)
    counter = RaplCounter(tmp_path)
    (part / "energy_uj").write_text("9000500")
    (first / "energy_uj").write_text("500000")
    assert counter.joules() == pytest.approx(1.5)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("3000000")
    assert counter.joules() == pytest.approx(3.5)
    assert RaplCounter(tmp_path / "none").joules() is None


def gpu(watts: float | None) -> Gpu:
    return Gpu(0, "RTX 4090", None, 24, 0, 97.0, watts, 450.0, 70.0, (), ())


def test_power_is_the_sum_of_what_tells_it(tmp_path: Path) -> None:
    counter = RaplCounter(tmp_path)
    with PowerMeter(lambda: [gpu(300.0), gpu(250.0), gpu(None)], counter) as meter:
        meter.sample()
    now = time.time()
    assert meter.watts(now, now) == pytest.approx(550.0)
    assert meter.source() == "GPUs, by NVML"
    assert meter.watts(now - 900, now - 800) is None
    with PowerMeter(lambda: [gpu(None)], counter) as meter:
        meter.sample()
    assert (meter.watts(0, now), meter.source()) == (None, None)


def test_seconds_are_from_the_end_of_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 1 to 3 warm up; a step after a checkpoint is not longer by the checkpoint."""
    run = create_run({}, "tiny")
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def event(kind: str, after: float, **values: object) -> None:
        clock[0] += after
        append_event(run, kind, stage="general", **values)

    event("stage_started", 100.0)
    event("data", 2.0)
    event("validation", 3.0)
    for step in range(1, 13):
        event("metrics", 5.0 if step == 1 else 1.0, step=step, tokens_per_second=100.0 * step)
        event("system", 0.0)
        if step == 6:
            event("validation", 0.5)
            event("checkpoint", 0.25, step=6)
            event("sample", 0.1, point="checkpoint")
            event("sample", 0.1, point="checkpoint")
    event("memory", 0.0, measured=777)
    stage = Stage("general", "pretrain", "General", TRAINING)
    found = measure_stage(run, stage, read_events(run))
    assert found is not None
    assert (found.started, found.num_steps, found.memory_bytes) == (100.0, 12, 777)
    assert found.step_seconds == pytest.approx(1.0)
    assert found.tokens_per_second == pytest.approx(800.0), "the median of steps 4 to 12"
    assert found.validation_seconds == pytest.approx(0.5)
    assert found.checkpoint_seconds == pytest.approx(0.25)
    assert found.samples_seconds == pytest.approx(0.2)
    assert found.setup_seconds == pytest.approx(10.0 - 1.0 - 0.5)
    assert measure_stage(run, replace(stage, name="story"), read_events(run)) is None


def test_too_few_steps_measure_nothing(stentor_home: Path) -> None:
    run = create_run({}, "tiny")
    for kind in ("stage_started", "metrics", "metrics"):
        append_event(run, kind, stage="general", step=1, tokens_per_second=5.0)
    stage = Stage("general", "pretrain", "General", TRAINING)
    found = measure_stage(run, stage, read_events(run))
    assert found is not None and (found.step_seconds, found.tokens_per_second) == (None, None)


def test_a_report_for_people() -> None:
    stages = (
        StageFigures("expand", 0, 0, 570_000_000, 0, seconds=3.0),
        StageFigures(
            "general", 623_000_000, 9500, 1_700_000_000, 620_000_000, 9 * 10**9, 24 * 10**9
        ),
    )
    report = Report(
        problems=(Problem("general", "warning", "gpu", "It is used.", "Wait."),),
        windows=(Window("general", "letters.txt", "word " * 100, 512),),
        stages=stages,
        total=Total(7_300.0, 9e6, "GPUs, by NVML", 8 * 10**9, 7 * 10**9, 90 * 10**9, 9 * 10**9),
        steps_rehearsed=20,
    )
    shown = describe_report(report)
    assert "general, first 512 tokens of letters.txt:" in shown and " ...\n" in shown
    assert "2 h 01 min" in shown and "2.50 kWh (GPUs, by NVML)" in shown
    assert "8.00 GB at most, 7.00 GB in the end, 90.00 GB free" in shown
    assert "Warning (stage general, gpu): It is used.\n  Wait." in shown
    total = replace(report.total or Total(0, None, None, 0, 0, 0, 0), energy_joules=None)
    assert "this machine does not tell" in describe_report(replace(report, total=total))
    assert describe_report(Report()) == "No problems found."


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (3.25, "3.2 s"),
        (59.2, "59 s"),
        (200, "3 min 20 s"),
        (18_420, "5 h 07 min"),
        (9e5, "10 d 10 h"),
    ],
)
def test_times_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_small_amounts_of_energy_are_watt_hours() -> None:
    assert energy(1800.0) == "0.5 Wh" and energy(720_000.0) == "200 Wh"
