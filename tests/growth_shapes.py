"""Small shapes, weights unlike any initialisation, and models of them, for the tests of growing."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from stentor.loading import LlamaShape, tensor_shapes_of
from training.checkpoint import build_model, llama_config
from training.expansion import Weights, grown_shape
from training.fresh_weights import EMBEDDING, OUTPUT

SMALL = LlamaShape(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    context_length=64,
    rms_norm_eps=1e-2,  # large, so that a wrong eps shows
    rope_theta=10_000.0,
    is_tied=True,
)
STENTOR_30M = replace(
    SMALL,
    vocab_size=32_768,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=21,
    num_heads=4,
    num_key_value_heads=4,
    head_dim=64,
    context_length=512,
    rms_norm_eps=1e-6,
)


def random_weights(
    shape: LlamaShape, seed: int = 3, std: float = 0.3, dtype: torch.dtype = torch.float32
) -> Weights:
    """Return weights that are nothing like an initialisation: large, with uneven norm gains."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(size, generator=generator) * std + (len(size) == 1)).to(dtype)
        for name, size in tensor_shapes_of(shape).items()
    }


def some_tokens(shape: LlamaShape, length: int = 40) -> torch.Tensor:
    return torch.arange(2 * length).reshape(2, length) * 7 % shape.vocab_size


def logits_of(weights: Weights, shape: LlamaShape, tokens: torch.Tensor) -> torch.Tensor:
    """Return the logits of a stock model in the precision of the weights, loaded strictly."""
    if weights[EMBEDDING].dtype == torch.float64:
        model = double_model(weights, shape)
    else:
        model = build_model(shape, weights, 0)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits


def double_model(weights: Weights, shape: LlamaShape) -> LlamaForCausalLM:
    model = LlamaForCausalLM(llama_config(shape, 0))
    torch.nn.Module.double(model)
    tied = {OUTPUT: weights[EMBEDDING]} if shape.is_tied else {}
    model.load_state_dict({**weights, **tied}, strict=True)
    return model


@contextmanager
def norms_in_double() -> Iterator[None]:
    """Let the norms of transformers compute in fp64, which they never do: fp32 even in a double.

    Without this no proof of exactness can go below 3e-6.
    """

    def forward(self: LlamaRMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
        mean_square = hidden_states.square().mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(mean_square + self.variance_epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield


def random_growth(chance: random.Random, *, is_whole: bool) -> tuple[LlamaShape, LlamaShape]:
    """Return a source of any kind and a target for it; `is_whole`: all sizes whole multiples."""
    head_dim = chance.choice((4, 8))
    group = chance.choice((1, 1, 2))  # queries to a key-value head
    num_heads = group * chance.choice((1, 2))
    source = replace(
        SMALL,
        hidden_size=num_heads * head_dim * chance.choice((1, 1, 2)),  # 2: a head size of its own
        intermediate_size=chance.choice((12, 20)),
        num_layers=chance.choice((1, 2, 3)),
        num_heads=num_heads,
        num_key_value_heads=num_heads // group,
        head_dim=head_dim,
        rms_norm_eps=chance.choice((1e-6, 1e-2)),
        is_tied=chance.random() < 0.7,
    )
    if is_whole:
        factor = chance.choice((1, 2, 3))
        hidden_size, num_heads = source.hidden_size * factor, source.num_heads * factor
        intermediate_size = source.intermediate_size * chance.choice((1, 2, 4))
    else:
        num_heads = source.num_heads + group * chance.choice((0, 1, 3))
        hidden_size = source.hidden_size * num_heads // source.num_heads
        intermediate_size = source.intermediate_size + chance.choice((0, 1, 13))
    target = grown_shape(
        source,
        hidden_size,
        intermediate_size,
        source.num_layers + chance.choice((0, 1, 2, 4)),
        num_heads,
        source.vocab_size + chance.choice((0, 0, 3)),
    )
    return source, target
