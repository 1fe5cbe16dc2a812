"""Measures what an expansion did to the function, and refuses one that breaks its promise."""

from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from training.loop import language_model_loss

# fp32 sums over twice the width differ in the last bits; measured at most 3e-6 of max |logit|.
EXACT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class GrowthReport:
    """Before and after, on the same windows. Losses in nats per token."""

    width: str
    depth: str
    claims_exact: bool
    max_logit_difference: float
    max_logit: float
    loss_before: float
    loss_after: float
    parameters_before: int
    parameters_after: int
    rms_norm_eps_before: float
    rms_norm_eps_after: float
    seed: int

    @property
    def is_exact(self) -> bool:
        """Tell whether the logits agree to fp32 rounding."""
        return self.max_logit_difference <= EXACT_TOLERANCE * self.max_logit


def measure_growth(
    before: LlamaForCausalLM,
    after: LlamaForCausalLM,
    windows: torch.Tensor,
    *,
    width: str,
    depth: str,
    claims_exact: bool,
    seed: int,
) -> GrowthReport:
    """Compare two models on `windows` (batch, length) in fp32.

    Raises:
        TrainingError: the strategy claims to keep the function and does not.
    """
    with torch.inference_mode():
        old = before(input_ids=windows, use_cache=False).logits
        new = after(input_ids=windows, use_cache=False).logits
        report = GrowthReport(
            width=width,
            depth=depth,
            claims_exact=claims_exact,
            max_logit_difference=float((old - new[..., : old.shape[-1]]).abs().max()),
            max_logit=float(old.abs().max()),
            loss_before=float(language_model_loss(before, windows)),
            loss_after=float(language_model_loss(after, windows)),
            parameters_before=before.num_parameters(),
            parameters_after=after.num_parameters(),
            rms_norm_eps_before=before.config.rms_norm_eps,
            rms_norm_eps_after=after.config.rms_norm_eps,
            seed=seed,
        )
    if claims_exact and not report.is_exact:
        raise TrainingError(
            f"{width} with {depth} should keep every logit, but one moved by "
            f"{report.max_logit_difference:.2e} (largest logit {report.max_logit:.2f}). "
            "The grown model is refused."
        )
    return report
