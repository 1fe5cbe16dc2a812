"""Hand-made results of a comparison, for tests of what is drawn from them."""

from training.growth_comparison.options import (
    CONTINUED,
    DEFAULT_STRATEGY,
    SCRATCH,
    ComparisonOptions,
    is_clone,
)
from training.growth_comparison.plan import Plan, Target, make_plan
from training.growth_comparison.report import Conditions
from training.growth_comparison.results import Point, Result

SOURCE_LOSS = 4.0
TARGET = Target(256, 1024, 10, 4)


def make_result(
    strategy: str,
    seed: int,
    losses: list[float],
    rate_factor: float = 1.0,
    error: str | None = None,
) -> Result:
    """Return a run measured after every 1,000 tokens."""
    points = tuple(
        Point(step, step * 1000, loss, 0.1 * step if is_clone(strategy) else None)
        for step, loss in enumerate(losses)
    )
    has_grown = strategy != CONTINUED
    return Result(
        strategy=strategy,
        rate_factor=rate_factor,
        seed=seed,
        learning_rate=1e-3 * rate_factor,
        num_parameters=11_000_000 if has_grown else 2_300_000,
        flops_per_token=8e7 if has_grown else 2e7,
        max_logit_difference=1e-5 if has_grown else None,
        max_logit=12.0 if has_grown else None,
        kl_divergence=0.0 if has_grown else None,
        points=points,
        seconds=1.0,
        error=error,
    )


def make_results(num_seeds: int) -> list[Result]:
    """Return three strategies; the default one ends 0.1 below the continued small model."""
    results = []
    for seed in range(num_seeds):
        shift = 0.01 * seed
        results += [
            make_result(CONTINUED, seed, [4.0, 4.1 + shift, 3.8 + shift, 3.5 + shift]),
            make_result(DEFAULT_STRATEGY, seed, [4.0, 4.2, 3.7, 3.4 + 1.1 * shift]),
            make_result(SCRATCH, seed, [8.3, 6.0, 5.0, 4.5]),
        ]
    return results


def plan_of(model: str = "demo-base", preset: str = "minutes", num_seeds: int = 1) -> Plan:
    """Return a plan of 3 steps of two windows."""
    options = ComparisonOptions(model=model, preset=preset, seeds=num_seeds, steps=3, batch_size=2)
    return make_plan(options, "sha256:0123", TARGET, 12_000_000)


def conditions_of(plan: Plan) -> Conditions:
    """Return the conditions of a made-up machine."""
    return Conditions(
        plan=plan,
        text="generated text",
        data_fingerprint="abc",
        source_loss=SOURCE_LOSS,
        source_parameters=2_300_000,
        source_flops=2.4e14,
        device="cpu",
        machine={"processor": "a <b>processor</b>", "cores": 2},
        versions={"torch": "2.13.0"},
    )
