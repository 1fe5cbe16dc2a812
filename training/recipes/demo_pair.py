"""The recipe that made the embedded demo pair: tokenizer, base, expansion, three stages."""

import math

from training.recipe import Recipe, Stage
from training.settings import (
    WINDOW_TOKENS,
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    Source,
)

FILES = (Source(kind="files"),)
BATCH_SIZE = 8


def demo_pair() -> Recipe:
    """Return the demo pair's recipe; give its text with `--text STAGE=FILE` (see the README)."""
    return Recipe(
        name="demo-pair",
        title="The embedded demo pair",
        purpose="Makes the small pair that ships with the playground, from your own text.",
        start=None,
        stages=(
            Stage("create", "create", "Tokenizer and random base", CreateSettings(sources=FILES)),
            # Rates are higher than the card's because these models are 12 times smaller.
            Stage("base", "pretrain", "Train the base", _stage(12_000_000, 3e-3, 0.05, 0.1)),
            Stage(
                "expand",
                "expand",
                "Expand the base",
                ExpandSettings(hidden_size=256, intermediate_size=1024, num_layers=10, num_heads=4),
            ),
            # One schedule over the three: warm up once, stay, decay in the last.
            Stage("general", "pretrain", "General text", _stage(700_000, 1e-3, 0.05, 1.0)),
            Stage("narrative", "pretrain", "Narrative text", _stage(700_000, 1e-3, 0.02, 1.0)),
            Stage("textbook", "pretrain", "Textbook text", _stage(1_200_000, 8e-4, 0.02, 0.02)),
        ),
        notes=(
            "Give each stage some text of the others too: a small model soon forgets what it no "
            "longer sees.",
        ),
    )


def _stage(
    num_tokens: int, learning_rate: float, warmup_fraction: float, final_fraction: float
) -> PretrainSettings:
    return PretrainSettings(
        sources=FILES,
        budget="tokens",
        num_steps=math.ceil(num_tokens / (BATCH_SIZE * WINDOW_TOKENS)),
        num_tokens=num_tokens,
        batch_size=BATCH_SIZE,
        micro_batch_size=4,
        learning_rate=learning_rate,
        warmup_fraction=warmup_fraction,
        final_fraction=final_fraction,
        validation_windows=32,
        validate_every=100,
        checkpoint_every=100,
    )
