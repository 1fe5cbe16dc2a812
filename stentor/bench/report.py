"""Figures as lines for people and as JSON: what was measured, ratios to peers, shares of limits."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stentor.peers.protocol import Run, median_run

OURS = "stentor"
# What a measurement is of.
USERS, CONTEXT, BOTH = "users", "context", "both models"
# Between the names of models that were asked at the same moment.
TOGETHER = " + "
BEST_PEER = "the fastest of them"
READS, MULTIPLY_ADDS = "memory reads", "multiply-adds"

HEADINGS = ("users", "tokens", "tokens/s", "each/s", "first s", "p95 s", "slowest")


@dataclass(frozen=True)
class MeasuredModel:
    """What was loaded, and how long that took with all kernels compiled."""

    name: str
    weights: str
    revision: str
    num_parameters: int
    precision: str
    device: str
    load_seconds: float
    cache_bytes: int
    num_slots: int


@dataclass(frozen=True)
class Measurement:
    """One line of the table: the median run of `num_runs`.

    `tokens_per_second` is that of all users together from the moment when they asked, prompts
    included; of a CONTEXT measurement, from the first token to the last, so without the prompt.
    """

    model: str
    weights: str
    engine: str
    precision: str
    drawing: str
    kind: str  # USERS, CONTEXT or BOTH
    num_threads: int
    num_users: int
    num_prompt_tokens: int
    num_new_tokens: int  # each
    num_tokens: int  # of all users
    tokens_per_second: float
    tokens_per_second_each: float  # mean over the users, from their first token to their last
    first_seconds: float  # mean over the users
    first_seconds_p95: float
    slowest_over_median: float  # seconds until a user had everything
    num_runs: int


@dataclass(frozen=True)
class Ratio:
    """How many times a peer's tokens per second ours are, drawn the same way."""

    model: str
    peer: str
    drawing: str
    num_users: int
    ratio: float


@dataclass(frozen=True)
class Share:
    """How much of a limit of this machine was reached."""

    model: str
    num_users: int
    limit: str
    reached: float  # a second
    possible: float
    fraction: float


def make_measurement(
    runs: Sequence[Run],
    *,
    model: str,
    weights: str,
    engine: str,
    precision: str,
    drawing: str,
    kind: str,
    num_threads: int,
    num_prompt_tokens: int,
) -> Measurement:
    """Return the figures of the median run."""
    is_context = kind == CONTEXT
    run = (
        sorted(runs, key=_mean_speed_each)[(len(runs) - 1) // 2] if is_context else median_run(runs)
    )
    num_users = len(run.first_seconds)
    return Measurement(
        model=model,
        weights=weights,
        engine=engine,
        precision=precision,
        drawing=drawing,
        kind=kind,
        num_threads=num_threads,
        num_users=num_users,
        num_prompt_tokens=num_prompt_tokens,
        num_new_tokens=run.num_tokens // num_users,
        num_tokens=run.num_tokens,
        tokens_per_second=round(_mean_speed_each(run) if is_context else run.tokens_per_second, 2),
        tokens_per_second_each=round(_mean_speed_each(run), 2),
        first_seconds=round(statistics.fmean(run.first_seconds), 4),
        first_seconds_p95=round(percentile(run.first_seconds, 0.95), 4),
        slowest_over_median=round(max(run.last_seconds) / statistics.median(run.last_seconds), 3),
        num_runs=len(runs),
    )


def _mean_speed_each(run: Run) -> float:
    """Return a user's mean tokens a second after the first; of a lone token, in all its seconds."""
    num_tokens = run.num_tokens // len(run.first_seconds)
    return statistics.fmean(
        (num_tokens - 1) / (last - first) if last > first else num_tokens / last
        for first, last in zip(run.first_seconds, run.last_seconds, strict=True)
    )


def percentile(values: Iterable[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ratios(measurements: Sequence[Measurement]) -> list[Ratio]:
    """Compare ours with every peer where the same users were measured and drew the same way."""
    ours = {
        (line.model, line.num_users, line.drawing): line.tokens_per_second
        for line in measurements
        if line.engine == OURS and line.kind == USERS
    }
    found = []
    for (model, num_users, drawing), own in ours.items():
        peers = {
            _title(line): round(own / line.tokens_per_second, 3)
            for line in measurements
            if line.engine != OURS
            and (line.model, line.num_users, line.drawing) == (model, num_users, drawing)
        }
        if peers:
            peers[BEST_PEER] = min(peers.values())
        found += [Ratio(model, peer, drawing, num_users, ratio) for peer, ratio in peers.items()]
    return found


def make_share(model: str, num_users: int, limit: str, reached: float, possible: float) -> Share:
    """Return what was reached, a second, as a part of what is possible."""
    return Share(model, num_users, limit, reached, possible, round(reached / possible, 4))


def model_line(model: MeasuredModel) -> str:
    """Return what was loaded as a line."""
    return (
        f"{short_name(model.name)}: {model.num_parameters:,} parameters, {model.weights} weights, "
        f"{model.precision} on {model.device}, loaded in {model.load_seconds:.2f} s, "
        f"{model.num_slots} slots of {model.cache_bytes / 1e6:,.0f} MB in all"
    )


def heading() -> str:
    """Return the first line of the table."""
    return _row("model", "engine", "drawn", "prompt + new", HEADINGS)


def line_of(measurement: Measurement) -> str:
    """Return one line of the table."""
    what = {USERS: "", CONTEXT: " deep", BOTH: " both"}[measurement.kind]
    size = f"{measurement.num_prompt_tokens} + {measurement.num_new_tokens}{what}"
    figures = (
        str(measurement.num_users),
        str(measurement.num_tokens),
        f"{measurement.tokens_per_second:.1f}",
        f"{measurement.tokens_per_second_each:.1f}",
        f"{measurement.first_seconds:.3f}",
        f"{measurement.first_seconds_p95:.3f}",
        f"{measurement.slowest_over_median:.2f}",
    )
    is_together = measurement.kind == BOTH and TOGETHER in measurement.model
    name = "all of them" if is_together else short_name(measurement.model)
    return _row(name, _title(measurement), measurement.drawing, size, figures)


def ratio_lines(found: Iterable[Ratio]) -> list[str]:
    """Return one line for each model, number of users and way of drawing."""
    lines: dict[str, list[str]] = {}
    for ratio in found:
        start = f"{short_name(ratio.model)}, {_users(ratio.num_users)}, {ratio.drawing}: "
        lines.setdefault(start, []).append(f"{ratio.ratio:.2f} times {ratio.peer}")
    return [start + ", ".join(parts) for start, parts in lines.items()]


def share_line(share: Share) -> str:
    """Return one share as a line; billions, because both limits are some tens or hundreds."""
    who = f"{short_name(share.model)}, {_users(share.num_users)}"
    return (
        f"{who}: {share.fraction:.0%} of the machine's {share.limit} "
        f"({share.reached / 1e9:.1f} of {share.possible / 1e9:.1f} billion a second)"
    )


def short_name(model: str) -> str:
    """Return the last part of a folder; other names as they are."""
    return model.rstrip("/").rpartition("/")[2]


def _users(count: int) -> str:
    return "1 user" if count == 1 else f"{count} users"


def _title(measurement: Measurement) -> str:
    return f"{measurement.engine} {measurement.precision}"


def _row(model: str, engine: str, drawing: str, size: str, figures: Sequence[str]) -> str:
    columns = "".join(f"{figure:>9}" for figure in figures)
    return f"{model:<18} {engine:<19} {drawing:<8}{size:>15}{columns}"
