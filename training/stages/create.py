"""Stage `create`: train a byte-level BPE tokenizer on the stage's text, and random weights."""

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from stentor.loading import LlamaShape
from training.checkpoint import llama_config
from training.recipe import Stage
from training.settings import WINDOW_TOKENS, CreateSettings
from training.sources import read_documents
from training.stages.context import StageContext
from training.stages.samples import record_samples
from training.tokenise import is_held_out
from training.tokenizer import END_TOKEN_ID, train_tokenizer


def create(stage: Stage, context: StageContext, _previous: Path | None) -> Path | None:
    """Write a checkpoint with a new tokenizer and N(0, 0.02) weights."""
    settings = stage.settings
    assert isinstance(settings, CreateSettings)
    context.started(stage)
    folder = context.run.folder / "tokenizer"
    documents = _trained_on(read_documents(settings.sources, context.recipe.seed))
    tokenizer = train_tokenizer(documents, settings.vocab_size, settings.max_characters, folder)
    context.recorder.say(f"Tokenizer: {tokenizer.get_vocab_size():,} tokens")
    torch.manual_seed(context.recipe.seed)  # the only draw from torch's global generator in a run
    model = LlamaForCausalLM(llama_config(new_shape(settings), END_TOKEN_ID))
    final = context.finish(stage, model, folder, {"parameters": model.num_parameters()})
    record_samples(context, stage, 0, model, tokenizer, (END_TOKEN_ID,), checkpoint=final.name)
    return final


def _trained_on(documents: Iterator[str]) -> Iterator[str]:
    """Yield the documents that are not held out for validation; where all are, all of them."""
    held_out: list[str] | None = []
    for document in documents:
        if not is_held_out(document):
            held_out = None
            yield document
        elif held_out is not None:
            held_out.append(document)
    yield from held_out or ()


def new_shape(settings: CreateSettings) -> LlamaShape:
    """Return the shape of the new model."""
    return LlamaShape(
        vocab_size=settings.vocab_size,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_layers=settings.num_layers,
        num_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        head_dim=settings.hidden_size // settings.num_heads,
        context_length=WINDOW_TOKENS,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        is_tied=True,
    )
