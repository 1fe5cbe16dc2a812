"""Names of a Llama's tensors and new random ones. Knows no strategy; pure functions."""

import torch

from stentor.loading import LlamaShape, tensor_shapes_of

Weights = dict[str, torch.Tensor]
INITIAL_STD = 0.02  # of transformers' Llama and of GPT-2
NEW_ROW_SPREAD = 0.01  # of a new token, in standard deviations of the old ones
EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"
FINAL_NORM = "model.norm.weight"
LAYER_PREFIX = "model.layers."
# Matrices that write into the residual stream: their rows are residual channels.
WRITERS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def layer_of(name: str) -> tuple[int | None, str]:
    """Return the layer of a tensor and its name in there: `model.layers.3.x` -> (3, `x`)."""
    if not name.startswith(LAYER_PREFIX):
        return None, name
    index, _, part = name.removeprefix(LAYER_PREFIX).partition(".")
    return int(index), part


def normal(
    size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, std: float = INITIAL_STD
) -> torch.Tensor:
    """Return N(0, std), drawn in fp32, so that a twin in fp64 has the same numbers."""
    return (torch.randn(size, generator=generator) * std).to(dtype)


def fresh_tensor(
    size: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, std: float = INITIAL_STD
) -> torch.Tensor:
    """Return what a new model starts from: gains of 1, matrices N(0, std)."""
    return torch.ones(size, dtype=dtype) if len(size) == 1 else normal(size, generator, dtype, std)


def fresh_weights(shape: LlamaShape, generator: torch.Generator, dtype: torch.dtype) -> Weights:
    """Return a new model: N(0, 0.02), and 0.02 / sqrt(2 L) for the writers of the L layers.

    What the 2 L writers add up to in the residual stream then does not grow with L (GPT-2).
    """
    writer_std = INITIAL_STD / (2 * shape.num_layers) ** 0.5
    return {
        name: fresh_tensor(
            size, generator, dtype, writer_std if name.endswith(WRITERS) else INITIAL_STD
        )
        for name, size in tensor_shapes_of(shape).items()
    }


def with_vocabulary(weights: Weights, vocab_size: int, generator: torch.Generator) -> Weights:
    """Return the weights with rows for new tokens; the old rows, and so their logits, stay.

    A new row is the mean of the old ones plus a hundredth of their spread. Its logit is then the
    mean of the old logits, so by Jensen's inequality k new tokens of n take no more than k / n of
    the old tokens' probability; a row near zero has the logit 0, which in a trained model can be
    the largest (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    grown = dict(weights)
    for name in (EMBEDDING, OUTPUT):
        old = weights.get(name)
        if old is None or old.shape[0] == vocab_size:
            continue
        size = (vocab_size - old.shape[0], old.shape[1])
        spread = old.std(dim=0, correction=0)
        noise = normal(size, generator, old.dtype, NEW_ROW_SPREAD) * spread
        grown[name] = torch.cat([old, old.mean(dim=0) + noise])
    return grown
