"""Measures what an expansion did to the function, and refuses one that breaks its promise.

Every window goes through each of the two models once; logits are compared window by window, so that
only two windows' logits are held at a time.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from training.depths import describe_layers
from training.expansion import GrowthPlan

# fp32 sums over twice the width differ in the last bits; measured at most 3e-6 of max |logit|.
EXACT_TOLERANCE = 1e-4
# Beyond 2x the gain is uncertain, and far beyond it a new model wins (arXiv 2605.13405).
LARGE_GROWTH = 4.0


@dataclass(frozen=True)
class GrowthReport(GrowthPlan):
    """The plan, and before and after on the same windows. Losses in nats per token.

    The largest logits and their difference are those of the source's tokens; `kl_divergence`
    (source || grown, nats per token) counts what new tokens take from them. `residual_rms_*` is the
    root mean square of the residual stream before each layer and after the last.
    """

    max_logit_difference: float
    max_logit: float
    kl_divergence: float
    loss_before: float
    loss_after: float
    parameters_before: int
    parameters_after: int
    rms_norm_eps_before: float
    rms_norm_eps_after: float
    residual_rms_before: tuple[float, ...]
    residual_rms_after: tuple[float, ...]

    @property
    def is_exact(self) -> bool:
        """Tell whether the logits agree to fp32 rounding."""
        return self.max_logit_difference <= EXACT_TOLERANCE * self.max_logit

    @property
    def factor(self) -> float:
        """Return how many times the parameters became more."""
        return self.parameters_after / self.parameters_before


def measure_growth(
    before: LlamaForCausalLM, after: LlamaForCausalLM, windows: torch.Tensor, plan: GrowthPlan
) -> GrowthReport:
    """Compare two models on `windows` (batch, length) in fp32.

    Raises:
        TrainingError: the growth claims to keep the function and does not.
    """
    moved, largest = [], []
    sums = torch.zeros(3, dtype=torch.float64)  # both losses and the divergence
    with torch.inference_mode(), _residual_rms(before) as old_rms, _residual_rms(after) as new_rms:
        for window in windows:
            old = before(input_ids=window[None], use_cache=False).logits[0]  # (length, vocabulary)
            new = after(input_ids=window[None], use_cache=False).logits[0]
            moved.append((old - new[:, : old.shape[1]]).abs().max())
            largest.append(old.abs().max())
            sums += _losses(old, new, window)
    loss_before, loss_after, divergence = (sums / len(windows)).tolist()
    report = GrowthReport(
        **vars(plan),
        max_logit_difference=float(torch.stack(moved).max()),  # unlike max(), keeps a NaN
        max_logit=float(torch.stack(largest).max()),
        kl_divergence=divergence,
        loss_before=loss_before,
        loss_after=loss_after,
        parameters_before=before.num_parameters(),
        parameters_after=after.num_parameters(),
        rms_norm_eps_before=before.config.rms_norm_eps,
        rms_norm_eps_after=after.config.rms_norm_eps,
        residual_rms_before=old_rms.values(),
        residual_rms_after=new_rms.values(),
    )
    _refuse_broken_promise(report)
    return report


def _refuse_broken_promise(report: GrowthReport) -> None:
    if report.claims_exact and not report.is_exact:
        raise TrainingError(
            f"{report.width} with {report.depth} should keep every logit, but one moved by "
            f"{report.max_logit_difference:.2e} (largest logit {report.max_logit:.2f}). "
            "The grown model is refused."
        )


def _losses(old: torch.Tensor, new: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Return both losses and KL(old || new) of one window, each a mean over its tokens."""
    old_log, new_log = functional.log_softmax(old, dim=-1), functional.log_softmax(new, dim=-1)
    divergence = functional.kl_div(
        new_log[:, : old.shape[1]], old_log, reduction="batchmean", log_target=True
    )
    losses = [functional.nll_loss(log[:-1], window[1:]) for log in (old_log, new_log)]
    return torch.stack([*losses, divergence.clamp_min(0.0)]).double()  # rounding may fall below 0


class _SquareMeans:
    """The mean squares of what enters some modules, over all their calls."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.sums = [0.0] * len(modules)
        self.num_calls = 0
        self.handles = [
            module.register_forward_pre_hook(self._hook(index))
            for index, module in enumerate(modules)
        ]

    def _hook(self, index: int) -> Any:  # noqa: ANN401 - torch's own hook type is not public
        def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            self.sums[index] += float(inputs[0].square().mean())
            self.num_calls += index == 0

        return add

    def values(self) -> tuple[float, ...]:
        """Return one root mean square per module."""
        return tuple(math.sqrt(total / self.num_calls) for total in self.sums)


@contextmanager
def _residual_rms(model: LlamaForCausalLM) -> Iterator[_SquareMeans]:
    """Watch the residual stream before each layer and before the final norm."""
    watch = _SquareMeans([*model.model.layers, model.model.norm])
    try:
        yield watch
    finally:
        for handle in watch.handles:
            handle.remove()


def report_to_json(report: GrowthReport) -> dict[str, object]:
    """Return the report with its verdict."""
    return {**asdict(report), "is_exact": report.is_exact, "factor": report.factor}


def warnings_of(report: GrowthReport) -> tuple[str, ...]:
    """Return what whoever trains the grown model should know before."""
    found = []
    if report.symmetry_break == "none":
        found.append(
            "The copies of a clone without a symmetry break get the same gradients: the large "
            "model trains as the small one. Take the break noise or uneven."
        )
    return tuple(found)


def describe(report: GrowthReport) -> str:
    """Return the report in a few lines."""
    broken = f" ({report.symmetry_break})" if report.symmetry_break else ""
    verdict = "same function" if report.is_exact else "function changed"
    lines = [
        f"{report.width}{broken} + {report.depth}, seed {report.seed}: "
        f"{report.parameters_before:,} -> {report.parameters_after:,} parameters "
        f"(x {report.factor:.2f})",
        f"  {verdict}: max |delta logit| {report.max_logit_difference:.2e} of "
        f"{report.max_logit:.2f}; KL {report.kl_divergence:.2e} nats per token",
        f"  loss on generated text {report.loss_before:.4f} -> {report.loss_after:.4f} nats",
        f"  rms_norm_eps {report.rms_norm_eps_before:g} -> {report.rms_norm_eps_after:g}",
        f"  layers (' is new): {describe_layers(report.layers)}",
        f"  residual RMS before: {_shown(report.residual_rms_before)}",
        f"  residual RMS after:  {_shown(report.residual_rms_after)}",
    ]
    if report.factor > LARGE_GROWTH:
        lines.append(
            f"  {report.factor:.1f} times as many parameters: up to 2 times is known to pay, far "
            "beyond it a new model can win (python -m training compare-growth tells)"
        )
    if report.learning_rate_factor != 1.0:
        lines.append(
            f"  use {report.learning_rate_factor:.3g} of the learning rate: each sum of a clone "
            "runs over copies that all move"
        )
    return "\n".join(lines)


def _shown(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
