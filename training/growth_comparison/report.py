"""A comparison for people and machines: the table, sentences, summary.json. No torch, no plotly."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stentor.runs import write_json
from training.growth_comparison.options import (
    CONTINUED,
    CONTROLS,
    DEFAULT_STRATEGY,
    in_words,
)
from training.growth_comparison.plan import Plan
from training.growth_comparison.results import Result
from training.growth_comparison.verdicts import (
    TIE_STANDARD_ERRORS,
    Arm,
    Verdict,
    best_arms,
    make_arms,
    make_verdicts,
)
from training.settings import OPTIMIZER_NAMES

SUMMARY_FILE = "summary.json"
HEADINGS = (
    "strategy",
    "rate",
    "seeds",
    "jump",
    "max logit shift",
    "bump",
    "tokens to source",
    "final loss",
    "halves apart",
)
LEGEND = (
    "Losses in nats per token on held-out text.",
    "rate: share of the learning rate; a clone takes its own part of it (half at twice the width).",
    "jump: what growing alone did to the loss.",
    "max logit shift: the largest change of a logit by growing, on a fixed probe.",
    "bump: the highest loss above that of the continued small model on the same batches.",
    "tokens to source: after so many the loss stays at or below the small model's before training.",
    "halves apart: |W top - W bottom| / |W| of a clone, first and last.",
)


@dataclass(frozen=True)
class Conditions:
    """What all runs of a comparison share; `text` describes it, `source_flops` may be unknown."""

    plan: Plan
    text: str
    data_fingerprint: str
    source_loss: float
    source_parameters: int
    source_flops: float | None
    device: str
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class Report:
    """Everything drawn from the results."""

    conditions: Conditions
    results: tuple[Result, ...]
    arms: tuple[Arm, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def num_missing(self) -> int:
        """Return how many planned runs have no result yet."""
        return len(set(self.conditions.plan.runs) - {run.key for run in self.results})


def make_report(conditions: Conditions, results: Sequence[Result]) -> Report:
    """Draw arms and verdicts: against the continued small model, and against the default."""
    arms = make_arms(results, conditions.source_loss)
    verdicts = make_verdicts(results, arms, CONTINUED)
    others = make_verdicts(results, arms, DEFAULT_STRATEGY)
    verdicts += [verdict for verdict in others if verdict.strategy != CONTINUED]
    return Report(conditions, tuple(results), tuple(arms), tuple(verdicts))


def table_lines(report: Report) -> list[str]:
    """Return the table for a terminal."""
    rows = table_rows(report)
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def table_rows(report: Report) -> list[tuple[str, ...]]:
    """Return the same table as cells, headings first, best final loss first."""
    return [HEADINGS, *map(_row, sorted(report.arms, key=lambda arm: arm.final_loss))]


def _row(arm: Arm) -> tuple[str, ...]:
    failed = f" ({arm.num_failed} failed)" if arm.num_failed else ""
    spread = f" ±{arm.standard_error:.4f}" if arm.standard_error is not None else ""
    halves = _number(arm.half_difference_first, ".3f")
    if arm.half_difference_last is not None:
        halves = f"{halves} to {_number(arm.half_difference_last, '.3f')}"
    return (
        in_words(arm.strategy),
        f"x {arm.rate_factor:g}",
        f"{arm.num_runs}{failed}",
        f"{arm.jump:+.4f}" if arm.strategy != CONTINUED else "",
        _number(arm.max_logit_difference, ".1e") if arm.strategy not in CONTROLS else "",
        _number(arm.bump, "+.4f") if arm.strategy != CONTINUED else "",
        "not yet" if arm.tokens_to_source is None else f"{arm.tokens_to_source:,.0f}",
        f"{arm.final_loss:.4f}{spread}",
        halves,
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def sentences(report: Report) -> list[str]:
    """Return what was found, in sentences."""
    plan = report.conditions.plan
    ranked = sorted(report.verdicts, key=lambda v: (v.reference != CONTINUED, v.mean))
    found = [_sentence(verdict) for verdict in ranked]
    if len(plan.rate_factors) > 1:
        best = best_arms(report.arms).values()
        rates = "; ".join(f"{in_words(arm.strategy)} x {arm.rate_factor:g}" for arm in best)
        found.append(f"Each strategy at its best share of the learning rate: {rates}.")
    failed = [run for run in report.results if not run.is_complete]
    found += [f"{in_words(r.strategy)}, seed {r.seed}, failed: {r.error}" for r in failed]
    if report.num_missing:
        found.append(f"{report.num_missing} of {len(plan.runs)} runs are still to be done.")
    found.append(rule(plan))
    return found


def rule(plan: Plan) -> str:
    """Return how a verdict is reached."""
    if plan.num_seeds == 1:
        return "One seed gives no verdict: the same difference may turn round with another seed."
    return (
        f"Verdicts compare seed by seed on the same batches; less than {TIE_STANDARD_ERRORS:g} "
        f"standard errors is a tie. With {plan.num_seeds} seeds that is a weak test."
    )


def _sentence(verdict: Verdict) -> str:
    names = f"{in_words(verdict.strategy)} against {in_words(verdict.reference)}"
    if verdict.standard_error is None:
        return f"{names}: {verdict.mean:+.4f} nats with one seed, {verdict.verdict}."
    shown = f"{verdict.mean:+.4f} ±{verdict.standard_error:.4f}"
    return f"{names}: {verdict.verdict} ({shown} nats over {len(verdict.differences)} seeds)."


def conditions_lines(report: Report) -> list[str]:
    """Return under what conditions this was measured."""
    conditions, plan = report.conditions, report.conditions.plan
    target = plan.target
    known = (
        f"trained on {plan.source_tokens:,} tokens before"
        if plan.source_tokens
        else "trained on an unknown number of tokens before"
    )
    return [
        f"{plan.model} ({plan.revision}), {conditions.source_parameters:,} parameters, {known}, "
        f"grown to width {target.hidden_size}, {target.num_layers} layers; each run "
        f"{plan.tokens_per_run:,} tokens in {plan.steps} steps of {conditions.text}.",
        f"Held-out loss of the small model before: {conditions.source_loss:.4f}. Peak learning "
        f"rate {plan.learning_rate:g} (a clone takes its own share of it), "
        f"{OPTIMIZER_NAMES[plan.optimizer]}, cosine, precision {plan.precision}.",
        f"Measured on {conditions.machine['processor']}, {conditions.machine['cores']} cores, "
        f"{conditions.device}; torch {conditions.versions['torch']}.",
    ]


def summary_of(report: Report) -> dict[str, Any]:
    """Return everything that was found, with where it comes from, as JSON values."""
    conditions = report.conditions
    return {
        "plan": asdict(conditions.plan),
        "seeds": list(range(conditions.plan.num_seeds)),
        "tokens_per_run": conditions.plan.tokens_per_run,
        "text": conditions.text,
        "data_fingerprint": conditions.data_fingerprint,
        "source_loss": conditions.source_loss,
        "source_parameters": conditions.source_parameters,
        "source_flops": conditions.source_flops,
        "device": conditions.device,
        "machine": conditions.machine,
        "versions": conditions.versions,
        "tie_below_standard_errors": TIE_STANDARD_ERRORS,
        "arms": [asdict(arm) for arm in report.arms],
        "verdicts": [asdict(verdict) for verdict in report.verdicts],
        "num_runs_missing": report.num_missing,
        "sentences": sentences(report),
    }


def write_summary(folder: Path, report: Report) -> None:
    """Replace the summary in the comparison's folder."""
    write_json(folder / SUMMARY_FILE, summary_of(report))


def last_line(report: Report, folder: Path) -> dict[str, Any]:
    """Return what the last line of output tells a machine."""
    return {
        "folder": str(folder),
        "steps": report.conditions.plan.steps,
        "tokens_per_run": report.conditions.plan.tokens_per_run,
        "source_loss": report.conditions.source_loss,
        "final_losses": {arm.strategy: arm.final_loss for arm in best_arms(report.arms).values()},
        "verdicts": [
            {
                "strategy": verdict.strategy,
                "reference": verdict.reference,
                "mean": verdict.mean,
                "standard_error": verdict.standard_error,
                "verdict": verdict.verdict,
            }
            for verdict in report.verdicts
        ],
        "num_runs_missing": report.num_missing,
    }
