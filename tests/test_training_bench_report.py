"""Figures of hand-made answers, computed by hand."""

import math
from dataclasses import replace

import pytest

from training.bench.plan import DATASETS, OURS, TRAINER, DataAnswer, Line, TrainAnswer
from training.bench.report import (
    data_line,
    data_ratio,
    flatness_line,
    is_same_loss,
    make_data_speed,
    make_flatness,
    make_memory,
    make_ratios,
    make_speed,
    memory_line,
    ratio_lines,
    speed_heading,
    speed_line,
)

PLAIN = Line(OURS, "fp32", is_checkpointed=False)
CARD = Line(TRAINER, "fp32", is_checkpointed=True)
FAST_PEER = Line(TRAINER, "fp32", is_checkpointed=False)


def answer(seconds: float, loss: float = 4.0, peak: int = 10**9) -> TrainAnswer:
    return TrainAnswer(seconds, num_tokens=1000, first_loss=loss, peak_bytes=peak)


def test_a_speed_is_the_median_and_its_share_of_the_machine() -> None:
    """1,000 tokens in 1, 2 and 4 s; 500 tokens/s of 3 GFLOP each are 1.5 TFLOP/s of 6."""
    answers = [answer(4.0), answer(1.0, peak=3 * 10**9), answer(2.0)]
    speed = make_speed("m", PLAIN, (8, 4), answers, flops_per_token=3e9, ceiling=6e12)
    assert (speed.tokens_per_second, speed.slowest, speed.fastest) == (500.0, 250.0, 1000.0)
    assert (speed.flops_share, speed.num_runs, speed.peak_bytes) == (0.25, 3, 3 * 10**9)
    line = speed_line(speed)
    assert len(line) == len(speed_heading())
    for shown in ("m ", "stentor ", "fp32", "8/4", " 500", " 250", " 1,000", "25%", "3.00 GB"):
        assert shown in line


def test_ratios_are_of_turns_and_of_every_peer() -> None:
    """A machine that is slow for a whole turn changes no ratio."""
    answers = {
        PLAIN: [answer(1.0), answer(10.0), answer(1.0)],
        CARD: [answer(2.0), answer(20.0), answer(3.0)],
        FAST_PEER: [answer(1.5), answer(15.0), answer(1.5)],
        Line(TRAINER, "bf16", False): [answer(0.1)],
    }
    ratios = make_ratios("m", answers)
    assert [(r.peer, r.ratio, r.lowest, r.highest) for r in ratios] == [
        ("transformers.Trainer, checkpointing", 2.0, 2.0, 3.0),
        ("transformers.Trainer", 1.5, 1.5, 1.5),
    ]
    assert ratio_lines(ratios)[0] == (
        "m, fp32: stentor is 2.00 times as fast as transformers.Trainer, checkpointing "
        "(2.00 to 3.00)"
    )
    assert make_ratios("m", {PLAIN: [answer(1.0)], CARD: []}) == []


def test_loops_that_compute_something_else_are_not_compared_in_silence() -> None:
    ratios = make_ratios("m", {PLAIN: [answer(1.0)], CARD: [answer(2.0, loss=4.01)]})
    assert not ratios[0].has_same_loss
    assert "compares nothing" in ratio_lines(ratios)[1]
    assert is_same_loss(answer(1.0), answer(1.0, loss=4.0002), "fp32")
    assert is_same_loss(answer(1.0), answer(1.0, loss=4.01), "bf16")
    assert not is_same_loss(answer(1.0, loss=math.nan), answer(1.0, loss=math.nan), "bf16")


@pytest.mark.parametrize(
    ("predicted", "is_within"), [(0.84, False), (0.86, True), (1.14, True), (1.16, False)]
)
def test_a_prediction_may_be_off_by_15_percent(predicted: float, is_within: bool) -> None:
    found = replace(answer(1.0), predicted_bytes=round(predicted * 1e9))
    memory = make_memory("m", PLAIN, 4, found)
    assert (memory.is_within, memory.ratio) == (is_within, predicted)
    assert memory_line(memory).endswith("ok" if is_within else "off by more than 15%")
    assert "4 windows at a time: predicted" in memory_line(memory)


def test_text_is_compared_with_the_best_of_datasets_and_its_maps_alone() -> None:
    """Reading the file is free for datasets: 10 MB in 5 and in 4 s of maps, ours in 2 s of all."""
    ours = make_data_speed(OURS, 1, 10_000_000, [DataAnswer(2.0, 2_000_000, 10**9)])
    one, two = (
        make_data_speed(DATASETS, n, 10_000_000, [DataAnswer(9.0, 2_000_000, 10**9, seconds)])
        for n, seconds in ((1, 5.0), (2, 4.0))
    )
    assert (ours.megabytes_per_second, two.megabytes_per_second) == (5.0, 2.5)
    assert ours.tokens_per_second == 1_000_000
    assert data_ratio([ours, one, two]) == 2.0
    assert data_ratio([ours]) is None
    assert data_line(two).startswith("datasets.map, 2 processes: 2.50 MB/s of text")
    assert data_line(ours).startswith("stentor: 5.00 MB/s of text (5.00 to 5.00), 1,000,000 tok")


@pytest.mark.parametrize(("peak", "is_flat"), [(1.1, True), (1.2, False)])
def test_memory_is_flat_when_ten_times_the_text_needs_no_more(peak: float, is_flat: bool) -> None:
    small, large = DataAnswer(1.0, 1, 10**9), DataAnswer(9.0, 1, round(peak * 1e9))
    flatness = make_flatness((10**8, 10**9), small, large)
    assert (flatness.is_flat, flatness.ratio) == (is_flat, peak)
    assert flatness_line(flatness).endswith("flat" if is_flat else "not flat")
    assert "1.00 GB: " in flatness_line(flatness)
