"""Figures as lines for people and as JSON. Pure: knows no processes, files or torch."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.bench.plan import DATASETS, OURS, TRAINER, DataAnswer, Line, TrainAnswer

# What a prediction of the peak of memory may be off by.
MEMORY_TOLERANCE = 0.15
# Memory over ten times the text: more than this is not flat.
FLAT_TOLERANCE = 0.15
# Two loops that compute the same thing agree on the first batch to this much of the loss.
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}


@dataclass(frozen=True)
class Speed:
    """One line of the table: the median of `num_runs` processes and their spread."""

    model: str
    loop: str
    precision: str
    is_checkpointed: bool
    is_compiled: bool
    batch_size: int
    micro_batch_size: int
    tokens_per_second: float
    slowest: float
    fastest: float
    num_runs: int
    first_loss: float
    peak_bytes: int
    flops_per_token: float
    flops_share: float  # MFU: counted operations over the measured matrix product ceiling


@dataclass(frozen=True)
class Ratio:
    """How many times as fast ours is: median of the turns, in which both were measured."""

    model: str
    ours: str
    peer: str
    precision: str
    ratio: float
    lowest: float
    highest: float
    has_same_loss: bool


@dataclass(frozen=True)
class Memory:
    """A peak of memory as predicted and as measured."""

    model: str
    loop: str
    precision: str
    micro_batch_size: int
    predicted_bytes: int
    measured_bytes: int
    ratio: float
    is_within: bool


@dataclass(frozen=True)
class DataSpeed:
    """How fast text becomes windows: the median of `num_runs` processes and their spread."""

    way: str
    num_processes: int
    text_bytes: int
    megabytes_per_second: float
    slowest: float
    fastest: float
    tokens_per_second: float
    num_runs: int
    peak_bytes: int


@dataclass(frozen=True)
class Flatness:
    """The peak of memory of preparing a text and a text ten times as long."""

    small_text_bytes: int
    large_text_bytes: int
    small_peak_bytes: int
    large_peak_bytes: int
    large_seconds: float
    ratio: float
    is_flat: bool


def make_speed(
    model: str,
    line: Line,
    sizes: tuple[int, int],
    answers: Sequence[TrainAnswer],
    *,
    flops_per_token: float,
    ceiling: float,
) -> Speed:
    """Return the figures of one line; `sizes`: windows per step and per forward pass."""
    speeds = [answer.tokens_per_second for answer in answers]
    median = statistics.median(speeds)
    return Speed(
        model=model,
        loop=line.loop,
        precision=line.precision,
        is_checkpointed=line.is_checkpointed,
        is_compiled=line.is_compiled,
        batch_size=sizes[0],
        micro_batch_size=sizes[1],
        tokens_per_second=round(median, 2),
        slowest=round(min(speeds), 2),
        fastest=round(max(speeds), 2),
        num_runs=len(answers),
        first_loss=answers[0].first_loss,
        peak_bytes=max(answer.peak_bytes for answer in answers),
        flops_per_token=flops_per_token,
        flops_share=round(median * flops_per_token / ceiling, 4),
    )


def make_ratios(model: str, answers: Mapping[Line, Sequence[TrainAnswer]]) -> list[Ratio]:
    """Compare each of our lines with each of the Trainer's in the same precision."""
    found = []
    for ours, own in answers.items():
        for peer, theirs in answers.items():
            is_pair = (ours.loop, peer.loop) == (OURS, TRAINER)
            if not is_pair or ours.precision != peer.precision or not own or not theirs:
                continue
            turns = zip(own, theirs, strict=False)
            ratios = [one.tokens_per_second / two.tokens_per_second for one, two in turns]
            found.append(
                Ratio(
                    model=model,
                    ours=ours.title,
                    peer=peer.title,
                    precision=ours.precision,
                    ratio=round(statistics.median(ratios), 3),
                    lowest=round(min(ratios), 3),
                    highest=round(max(ratios), 3),
                    has_same_loss=is_same_loss(own[0], theirs[0], ours.precision),
                )
            )
    return found


def is_same_loss(one: TrainAnswer, other: TrainAnswer, precision: str) -> bool:
    """Tell whether two loops agree on the loss of the first batch; NaN agrees with nothing."""
    difference = abs(one.first_loss - other.first_loss)
    return difference <= LOSS_TOLERANCE[precision] * abs(other.first_loss)


def make_memory(model: str, line: Line, micro_batch_size: int, answer: TrainAnswer) -> Memory:
    """Compare the predicted peak with the measured one."""
    ratio = answer.predicted_bytes / answer.peak_bytes
    return Memory(
        model=model,
        loop=line.title,
        precision=line.precision,
        micro_batch_size=micro_batch_size,
        predicted_bytes=answer.predicted_bytes,
        measured_bytes=answer.peak_bytes,
        ratio=round(ratio, 3),
        is_within=abs(ratio - 1.0) <= MEMORY_TOLERANCE,
    )


def make_data_speed(
    way: str, num_processes: int, text_bytes: int, answers: Sequence[DataAnswer]
) -> DataSpeed:
    """Return the figures of one way; of datasets the two maps alone, which is kind to it."""
    seconds = [answer.map_seconds or answer.seconds for answer in answers]
    speeds = [text_bytes / 1e6 / each for each in seconds]
    return DataSpeed(
        way=way,
        num_processes=num_processes,
        text_bytes=text_bytes,
        megabytes_per_second=round(statistics.median(speeds), 3),
        slowest=round(min(speeds), 3),
        fastest=round(max(speeds), 3),
        tokens_per_second=round(answers[0].num_tokens / statistics.median(seconds), 1),
        num_runs=len(answers),
        peak_bytes=max(answer.peak_bytes for answer in answers),
    )


def data_ratio(speeds: Sequence[DataSpeed]) -> float | None:
    """Return how many times as fast ours is as the fastest of datasets; None: one is missing."""
    ours = [speed.megabytes_per_second for speed in speeds if speed.way == OURS]
    theirs = [speed.megabytes_per_second for speed in speeds if speed.way == DATASETS]
    return round(max(ours) / max(theirs), 3) if ours and theirs else None


def make_flatness(text_bytes: tuple[int, int], small: DataAnswer, large: DataAnswer) -> Flatness:
    """Compare the memory of two sizes of text."""
    ratio = large.peak_bytes / small.peak_bytes
    return Flatness(
        small_text_bytes=text_bytes[0],
        large_text_bytes=text_bytes[1],
        small_peak_bytes=small.peak_bytes,
        large_peak_bytes=large.peak_bytes,
        large_seconds=round(large.seconds, 2),
        ratio=round(ratio, 3),
        is_flat=ratio <= 1.0 + FLAT_TOLERANCE,
    )


def ceiling_line(precision: str, operations: float) -> str:
    """Return what MFU is a share of."""
    return f"At most: {operations / 1e9:,.1f} GFLOP/s, a {precision} matrix product"


def speed_heading() -> str:
    """Return the first line of the table of loops."""
    return _row("model", "loop", ("prec.", "batch", "tokens/s", "lowest", "highest", "MFU", "peak"))


def speed_line(speed: Speed) -> str:
    """Return one line of the table of loops."""
    line = Line(speed.loop, speed.precision, speed.is_checkpointed, speed.is_compiled)
    figures = (
        speed.precision,
        f"{speed.batch_size}/{speed.micro_batch_size}",
        f"{speed.tokens_per_second:,.0f}",
        f"{speed.slowest:,.0f}",
        f"{speed.fastest:,.0f}",
        f"{speed.flops_share:.0%}",
        _gigabytes(speed.peak_bytes),
    )
    return _row(speed.model, line.title, figures)


def ratio_lines(ratios: Iterable[Ratio]) -> list[str]:
    """Return one line for each ratio, and one where the two do not compute the same."""
    lines = []
    for each in ratios:
        lines.append(
            f"{each.model}, {each.precision}: {each.ours} is {each.ratio:.2f} times as fast as "
            f"{each.peer} ({each.lowest:.2f} to {each.highest:.2f})"
        )
        if not each.has_same_loss:
            lines.append("  but their losses of the first batch differ, so this compares nothing")
    return lines


def memory_line(memory: Memory) -> str:
    """Return one prediction as a line."""
    verdict = "ok" if memory.is_within else f"off by more than {MEMORY_TOLERANCE:.0%}"
    counted = count_of(memory.micro_batch_size, "window")
    return (
        f"{memory.model}, {memory.loop}, {memory.precision}, {counted} at a time: predicted "
        f"{_gigabytes(memory.predicted_bytes)}, measured {_gigabytes(memory.measured_bytes)}, "
        f"{memory.ratio:.2f} of it: {verdict}"
    )


def data_line(speed: DataSpeed) -> str:
    """Return how fast one way was."""
    processes = (
        f", {count_of(speed.num_processes, 'process', 'processes')}"
        if speed.way == DATASETS
        else ""
    )
    return (
        f"{speed.way}{processes}: {speed.megabytes_per_second:.2f} MB/s of text "
        f"({speed.slowest:.2f} to {speed.fastest:.2f}), {speed.tokens_per_second:,.0f} tokens/s, "
        f"at most {_gigabytes(speed.peak_bytes)} of memory"
    )


def flatness_line(flatness: Flatness) -> str:
    """Return what ten times the text did to memory."""
    verdict = "flat" if flatness.is_flat else "not flat"
    return (
        f"{_gigabytes(flatness.small_text_bytes)} of text: at most "
        f"{_gigabytes(flatness.small_peak_bytes)} of memory; "
        f"{_gigabytes(flatness.large_text_bytes)}: {_gigabytes(flatness.large_peak_bytes)}, "
        f"{flatness.ratio:.2f} times as much: {verdict}"
    )


def count_of(number: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun, in the right form."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _row(model: str, loop: str, figures: Sequence[str]) -> str:
    return f"{model:<12} {loop:<36}" + "".join(f"{figure:>10}" for figure in figures)
