"""The learning rate as a pure function of the step: linear warm-up, then cosine or WSD.

Knows no optimizer and keeps nothing, so a resumed run has the rates of one that never stopped.
"""

import math

from training.settings import PretrainSettings

# 100 * 0.07 is 7.000000000000001 in floating point, and means seven steps.
ROUNDING = 1e-9


def learning_rate_factor(step: int, settings: PretrainSettings) -> float:
    """Return the share of the peak rate at `step` (0-based) of the stage.

    Warm-up rises to the peak in equal stairs, the last of them the peak. Then the cosine
    (SGDR, arXiv:1608.03983), or `wsd` (warm-up, stable, decay: MiniCPM, arXiv:2404.06395): the
    peak, and over the last `decay_fraction` of all steps a straight line. Both would reach
    `final_fraction` one step after the last, so that no step is wasted on a rate of nothing.
    """
    total_steps = settings.total_steps()
    warmup_steps = _share_of(total_steps, settings.warmup_fraction)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if settings.schedule == "wsd":
        decay_steps = _share_of(total_steps, settings.decay_fraction)
        decay_steps = min(decay_steps, total_steps - warmup_steps)
        decayed = _linear_decay(step - (total_steps - decay_steps), decay_steps)
    else:
        decayed = _cosine_decay(step - warmup_steps, total_steps - warmup_steps)
    return settings.final_fraction + (1.0 - settings.final_fraction) * decayed


def _share_of(total_steps: int, fraction: float) -> int:
    """Return that share of the steps, rounded up."""
    return math.ceil(total_steps * fraction - ROUNDING)


def _cosine_decay(step: int, num_steps: int) -> float:
    """Return 1 at step 0, falling to 0 at `num_steps`."""
    progress = step / max(1, num_steps)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _linear_decay(step: int, num_steps: int) -> float:
    """Return 1 before step 0, then equal stairs, with 0 at `num_steps`."""
    return 1.0 - min(1.0, max(0, step + 1) / (num_steps + 1))
