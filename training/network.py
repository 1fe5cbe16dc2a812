"""The loss of a stock Llama, computed for training. Knows no files, steps or optimizers.

Two ways with the same result: fused kernels on a CPU (training/fused.py), and PyTorch's own
operators everywhere else (training/plain.py), which `torch.compile` can fuse.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from stentor.engine.cpu.tile import LANES
from training.fused import FusedLayer, FusedLoss, FusedNorm, LayerSizes, LayerWeights
from training.kernels import team
from training.plain import PlainLoss, chunk_loss, plain_layer, plain_norm
from training.scratch import Scratch

# Rows of logits at a time: 256 MB in fp32 at 32,768 tokens on a GPU, a quarter of it on a CPU.
CHUNK_ROWS = {"cuda": 2048, "cpu": 512}
NO_TARGET = -100


class TrainingNetwork(nn.Module):
    """A stock model's loss; the model keeps its own parameters, names and tying.

    Args:
        model: the parameters, and their places in a checkpoint.
        precision: of the products, `fp32` or `bf16`; parameters and their gradients stay as they
            are.
        gradient_checkpointing: keep only the inputs of each layer for the backward pass, which
            computes the rest again: the same numbers, less memory.
    """

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
        self.gradient_checkpointing = gradient_checkpointing
        self._scratch = Scratch(has_bf16_products=precision == "bf16")
        self._layer, self._chunk_loss = plain_layer, chunk_loss

    def forward(self, windows: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats of each next token; windows: (batch, length)."""
        targets = functional.pad(windows[:, 1:], (0, 1), value=NO_TARGET).flatten()
        if self.uses_kernels(windows.device):
            return self._fused(windows, targets)
        is_mixed = self.precision == "bf16"
        with torch.autocast(windows.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            return self._plain(windows, targets)

    def compile(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as nn.Module has it
        """Have `torch.compile` fuse a layer and the loss, once for all layers; not the kernels."""
        self._layer = torch.compile(plain_layer, *args, **kwargs)
        self._chunk_loss = torch.compile(chunk_loss, *args, **kwargs)

    def uses_kernels(self, device: torch.device) -> bool:
        """Tell whether the fused kernels can compute this model on this device."""
        config = self.model.config
        return (
            device.type == "cpu"
            and config.hidden_act == "silu"
            and not (config.attention_bias or config.mlp_bias)
            and self.model.model.layers[0].self_attn.head_dim % LANES == 0
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and team.is_available()
            and all(
                weight.dtype == torch.float32 and weight.is_contiguous()
                for weight in self.model.parameters()
            )
        )

    def _angles(self, windows: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines of the positions, (1, length, dim) each."""
        positions = torch.arange(windows.shape[1], device=windows.device).unsqueeze(0)
        cosines, sines = self.model.model.rotary_emb(hidden, position_ids=positions)
        return cosines, sines

    def _fused(self, windows: Tensor, targets: Tensor) -> Tensor:
        """Compute with training/fused.py; see forward."""
        core, config = self.model.model, self.model.config
        hidden = core.embed_tokens(windows).flatten(0, 1)  # (batch * length, hidden)
        half = core.layers[0].self_attn.head_dim // 2
        cosines, sines = (part[0, :, :half].contiguous() for part in self._angles(windows, hidden))
        sizes = LayerSizes(
            windows.shape[0],
            windows.shape[1],
            core.layers[0].self_attn.q_proj.out_features // (2 * half),
            core.layers[0].self_attn.k_proj.out_features // (2 * half),
            2 * half,
            config.rms_norm_eps,
        )
        for layer in core.layers:
            weights = _weights(layer)
            hidden = FusedLayer.apply(  # type: ignore[no-untyped-call]
                hidden,
                (cosines, sines),
                sizes,
                self._scratch,
                self.gradient_checkpointing,
                *weights,
            )
        hidden = FusedNorm.apply(  # type: ignore[no-untyped-call]
            hidden, core.norm.weight, config.rms_norm_eps
        )
        loss: Tensor = FusedLoss.apply(  # type: ignore[no-untyped-call]
            hidden,
            self.model.lm_head.weight,
            targets,
            _num_targets(windows),
            self._scratch,
            torch.is_grad_enabled(),
        )
        return loss

    def _plain(self, windows: Tensor, targets: Tensor) -> Tensor:
        """Compute with training/plain.py; see forward."""
        core = self.model.model
        hidden = core.embed_tokens(windows)
        cosines, sines = self._angles(windows, hidden)
        for layer in core.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(self._layer, layer, hidden, cosines, sines, use_reentrant=False)
            else:
                hidden = self._layer(layer, hidden, cosines, sines)
        hidden = plain_norm(hidden, core.norm).flatten(0, 1)
        dtype = torch.bfloat16 if self.precision == "bf16" else hidden.dtype
        loss: Tensor = PlainLoss.apply(  # type: ignore[no-untyped-call]
            hidden,
            self.model.lm_head.weight,
            targets,
            _num_targets(windows),
            dtype,
            CHUNK_ROWS.get(windows.device.type, CHUNK_ROWS["cpu"]),
            self._chunk_loss,
            torch.is_grad_enabled(),
        )
        return loss


def _num_targets(windows: Tensor) -> int:
    return windows.shape[0] * (windows.shape[1] - 1)


def _weights(layer: LlamaDecoderLayer) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerWeights(
        layer.input_layernorm.weight,
        attention.q_proj.weight,
        attention.k_proj.weight,
        attention.v_proj.weight,
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        mlp.gate_proj.weight,
        mlp.up_proj.weight,
        mlp.down_proj.weight,
    )


def language_model_loss(model: LlamaForCausalLM, windows: Tensor) -> Tensor:
    """Return the loss of one batch in fp32, see TrainingNetwork."""
    loss: Tensor = TrainingNetwork(model)(windows)
    return loss


def resolve_precision(setting: str, device: torch.device) -> str:
    """Return `fp32` or `bf16`: auto is bf16 on a GPU and fp32 on a processor."""
    if setting != "auto":
        return setting
    return "bf16" if device.type == "cuda" else "fp32"
