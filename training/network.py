"""The loss of a stock Llama, computed for training. Knows no files, steps or optimizers."""

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM


class TrainingNetwork(nn.Module):
    """A stock model's loss; the model keeps its own parameters, names and tying."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        precision: str = "fp32",
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.precision = precision
        if gradient_checkpointing:
            model.activation_checkpointing_enable()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy in nats of each next token; windows: (batch, length).

        The last position predicts nothing, so it is dropped before the output matrix, the largest
        product of a small model.
        """
        is_mixed = self.precision == "bf16"
        with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            hidden = self.model.model(input_ids=windows, use_cache=False).last_hidden_state[:, :-1]
            logits = self.model.lm_head(hidden)  # (batch, length - 1, vocabulary)
            return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def language_model_loss(model: LlamaForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Return the loss of one batch in fp32, see TrainingNetwork."""
    loss: torch.Tensor = TrainingNetwork(model)(windows)
    return loss


def resolve_precision(setting: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`: auto is bf16 on a GPU and fp32 on a processor."""
    if setting != "auto":
        return setting
    return "bf16" if device.type == "cuda" else "fp32"
