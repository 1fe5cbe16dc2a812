"""The learning rate as a pure function of the step: linear warm-up, then cosine decay."""

import math


def learning_rate_factor(
    step: int, total_steps: int, warmup_fraction: float, final_fraction: float
) -> float:
    """Return the share of the peak rate at `step` (0-based) of `total_steps`.

    Warm-up rises to the peak in `ceil(total_steps * warmup_fraction)` equal stairs; the cosine
    would reach `final_fraction` one step after the last.
    """
    warmup_steps = math.ceil(total_steps * warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return final_fraction + (1.0 - final_fraction) * cosine
