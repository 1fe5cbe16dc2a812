"""Events of a run as its trainer writes them, made up one by one for the judges of alarms."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from training.alarms.finding import Event, Finding, Judge

TOKENS_PER_STEP = 2_048


def started(stage: str = "general", step: int = 0) -> dict[str, Any]:
    return {
        "kind": "stage_started",
        "stage": stage,
        "step": step,
        "tokens_per_step": TOKENS_PER_STEP,
    }


def stepped(step: int, loss: float = 3.0, stage: str = "general", **values: Any) -> dict[str, Any]:  # noqa: ANN401 - as JSON has them
    event = {
        "kind": "metrics",
        "stage": stage,
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "loss": loss,
        "gradient_norm": 0.4,
        "learning_rate": 1e-3,
        "tokens_per_second": 2_048.0,  # a second a step
    }
    return {**event, **values}


def read(**values: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"kind": "system", "stage": "general", "step": 1, "tokens": 0, **values}


def gpu(index: int = 0, **values: Any) -> dict[str, Any]:  # noqa: ANN401
    reading = {"temperature": 60.0, "throttle": [], "power_watts": 300.0}
    return {"index": index, "name": "NVIDIA GeForce RTX 4090", **reading, **values}


def noisy(
    num_steps: int, level: float = 3.0, noise: float = 0.05, seed: int = 1
) -> Iterator[float]:
    """Yield losses that fall slowly, with the noise of real batches."""
    generator = random.Random(seed)
    for step in range(num_steps):
        yield level + 2.0 * 0.98**step + generator.gauss(0.0, noise)


def changes(judge: Judge, events: Sequence[Event]) -> list[tuple[int, Finding]]:
    """Return where an alarm was raised and cleared, as the watch would see it."""
    found: list[tuple[int, Finding]] = []
    is_open = False
    for place, event in enumerate(events):
        finding = judge.see(event)
        if finding is not None and finding.is_wrong != is_open:
            is_open = finding.is_wrong
            found.append((place, finding))
    return found
