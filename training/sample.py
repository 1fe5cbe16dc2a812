"""A short text by the model in training: what a stage ends with, for people to read."""

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

SAMPLE_PROMPT = "One morning the"
SAMPLE_TOKENS = 40


def sample_text(model: LlamaForCausalLM, tokenizer: Tokenizer, end_token: int, seed: int) -> str:
    """Return a short continuation of SAMPLE_PROMPT, sampled with its own random state."""
    ids = tokenizer.encode(SAMPLE_PROMPT, add_special_tokens=False).ids
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.train(False)  # in training mode, activation checkpointing would drop the cache
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        output = model.generate(  # type: ignore[misc]
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=True,
            temperature=0.5,
            top_p=0.9,
            pad_token_id=end_token,
        )
    model.train(was_training)
    text: str = tokenizer.decode(output[0, len(ids) :].tolist())
    return text
