"""Random models of any shape, and the loss of the stock path that the faster ones must give."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


class Sizes(NamedTuple):
    """The sizes of a small Llama; none a multiple of anything."""

    vocab_size: int = 301
    hidden_size: int = 48
    intermediate_size: int = 84
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 16
    tie_word_embeddings: bool = True


SMALL = Sizes()


def random_model(sizes: Sizes = SMALL) -> LlamaForCausalLM:
    """Return a stock model with weights large enough for sharp attention."""
    config = LlamaConfig(
        **sizes._asdict(), max_position_embeddings=512, initializer_range=0.2, rms_norm_eps=1e-5
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model


def random_windows(batch: int, length: int, vocab_size: int = 301) -> Tensor:
    """Return token ids, (batch, length), the same ones at each call."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, vocab_size, (batch, length), generator=generator)


def stock_loss(model: LlamaForCausalLM, windows: Tensor) -> Tensor:
    """Return the mean loss as `transformers` computes it, with its own loss function."""
    logits = model(input_ids=windows, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def reference(model: LlamaForCausalLM, windows: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Return loss and gradients of the stock path in fp64."""
    exact = copy.deepcopy(model).double()
    loss = stock_loss(exact, windows)
    torch.autograd.backward(loss)
    return float(loss.detach()), gradients_of(exact)


def gradients_of(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """Take the gradients away from a model's parameters."""
    taken = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        taken[name], weight.grad = weight.grad, None
    return taken
