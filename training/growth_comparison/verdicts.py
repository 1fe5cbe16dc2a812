"""Numbers drawn from the runs: what growth did at first, and paired verdicts over seeds. No torch.

Runs of one seed saw the very same batches, so strategies are compared seed by seed: the mean of
the differences of the final validation loss, and its standard error. The rule was fixed before any
run: less than two standard errors is a tie; one seed alone gives no verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from training.growth_comparison.options import CONTINUED
from training.growth_comparison.results import Result

# A difference below so many standard errors is a tie.
TIE_STANDARD_ERRORS = 2.0
BETTER, WORSE, TIE, NONE = "better", "worse", "tie", "no verdict"


@dataclass(frozen=True)
class Arm:
    """One strategy at one share of the learning rate, as a mean over its complete runs.

    Losses in nats per token. `jump`: what growing alone did to the validation loss.
    `bump`: the highest loss of the run above the source's, less that of the continued small model
    on the same batches, so that what the learning rate does to any model is taken out.
    `tokens_to_source`: after so many tokens the loss stays at or below the source's; None: not yet.
    """

    strategy: str
    rate_factor: float
    num_runs: int
    num_failed: int
    final_loss: float
    standard_error: float | None
    jump: float
    bump: float | None
    max_logit_difference: float | None
    max_logit: float | None
    tokens_to_source: float | None
    half_difference_first: float | None
    half_difference_last: float | None
    num_parameters: int


@dataclass(frozen=True)
class Verdict:
    """A strategy against another one, each at its best share of the learning rate."""

    strategy: str
    reference: str
    differences: tuple[float, ...]  # final loss minus the reference's, one per common seed
    mean: float
    standard_error: float | None
    verdict: str


def paired_verdict(differences: Sequence[float]) -> tuple[float, float | None, str]:
    """Return mean, standard error and verdict; a negative difference is the better one."""
    mean = fmean(differences)
    if len(differences) < 2:
        return mean, None, NONE
    error = stdev(differences) / math.sqrt(len(differences))
    if mean == 0 or abs(mean) < TIE_STANDARD_ERRORS * error:
        return mean, error, TIE
    return mean, error, BETTER if mean < 0 else WORSE


def make_arms(results: Sequence[Result], source_loss: float) -> list[Arm]:
    """Return every strategy and share of the rate that has a complete run, in order of coming."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for result in results:
        groups.setdefault((result.strategy, result.rate_factor), []).append(result)
    controls = {
        (result.rate_factor, result.seed): result
        for result in results
        if result.strategy == CONTINUED and result.is_complete
    }
    arms = []
    for group in groups.values():
        complete = [result for result in group if result.is_complete]
        if complete:
            num_failed = len(group) - len(complete)
            arms.append(_make_arm(complete, num_failed, controls, source_loss))
    return arms


def _make_arm(
    runs: list[Result],
    num_failed: int,
    controls: dict[tuple[float, int], Result],
    source_loss: float,
) -> Arm:
    losses = [run.final_loss for run in runs]
    bumps = [
        bump_of(run) - bump_of(controls[run.rate_factor, run.seed])
        for run in runs
        if (run.rate_factor, run.seed) in controls
    ]
    reached = [tokens_to_loss(run, source_loss) for run in runs]
    return Arm(
        strategy=runs[0].strategy,
        rate_factor=runs[0].rate_factor,
        num_runs=len(runs),
        num_failed=num_failed,
        final_loss=fmean(losses),
        standard_error=stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else None,
        jump=fmean(run.points[0].validation_loss for run in runs) - source_loss,
        bump=fmean(bumps) if bumps else None,
        max_logit_difference=_largest([run.max_logit_difference for run in runs]),
        max_logit=_largest([run.max_logit for run in runs]),
        tokens_to_source=_mean(reached),
        half_difference_first=_mean([run.points[0].half_difference for run in runs]),
        half_difference_last=_mean([run.points[-1].half_difference for run in runs]),
        num_parameters=runs[0].num_parameters,
    )


def bump_of(run: Result) -> float:
    """Return the highest validation loss of a run, the start included."""
    return max(point.validation_loss for point in run.points)


def tokens_to_loss(run: Result, loss: float) -> float | None:
    """Return the tokens after which a run stays at or below `loss`, between points on a line.

    A model that grew exactly begins at the source's loss; what counts is when it is back for good.
    """
    points = run.points
    if points[-1].validation_loss > loss:
        return None
    above = [i for i, point in enumerate(points) if point.validation_loss > loss]
    if not above:
        return 0.0
    before, after = points[above[-1]], points[above[-1] + 1]
    fall = before.validation_loss - after.validation_loss
    share = (before.validation_loss - loss) / fall
    return before.tokens + share * (after.tokens - before.tokens)


def best_arms(arms: Sequence[Arm]) -> dict[str, Arm]:
    """Return each strategy at the share of the rate that ended lowest, among those of most runs.

    Every strategy is given the same number of tries, so none gains by this choice.
    """
    best: dict[str, Arm] = {}
    for arm in arms:
        known = best.get(arm.strategy)
        if known is None or (-arm.num_runs, arm.final_loss) < (-known.num_runs, known.final_loss):
            best[arm.strategy] = arm
    return best


def make_verdicts(results: Sequence[Result], arms: Sequence[Arm], reference: str) -> list[Verdict]:
    """Return every other strategy against `reference`, where both have a seed in common."""
    best = best_arms(arms)
    if reference not in best:
        return []
    losses = {run.key: run.final_loss for run in results if run.is_complete}
    seeds = sorted({run.seed for run in results})
    verdicts = []
    for strategy, arm in best.items():
        if strategy == reference:
            continue
        keys = [
            ((strategy, arm.rate_factor, seed), (reference, best[reference].rate_factor, seed))
            for seed in seeds
        ]
        differences = [losses[a] - losses[b] for a, b in keys if a in losses and b in losses]
        if differences:
            verdicts.append(
                Verdict(strategy, reference, tuple(differences), *paired_verdict(differences))
            )
    return verdicts


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or None where a value is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
