"""The recipe that makes the embedded demo pair: tokenizer, base, expansion, three stages.

training/LOG.md tells what was tried on the way to these numbers.
"""

from training.recipe import Recipe, Stage
from training.settings import (
    WINDOW_TOKENS,
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    Source,
)

GENERAL, NARRATIVE, TEXTBOOK = (
    Source(kind="files", name=name) for name in ("general", "narrative", "textbook")
)
BATCH_SIZE = 8
BASE_RATE, GROWN_RATE = 5e-3, 3e-3


def demo_pair() -> Recipe:
    """Return the demo pair's recipe; give its text with `--corpora DIR` (see the README)."""
    return Recipe(
        name="demo-pair",
        title="The embedded demo pair",
        purpose="Makes the small pair that ships with the playground, from your own text.",
        start=None,
        stages=(
            Stage(
                "create",
                "create",
                "Tokenizer and random base",
                CreateSettings(sources=(GENERAL, NARRATIVE, TEXTBOOK)),
            ),
            Stage(
                "base",
                "pretrain",
                "Base: general text",
                _stage((GENERAL,), 8_000_000, BASE_RATE, warmup_fraction=0.03, decay_fraction=0.3),
            ),
            Stage(
                "expand",
                "expand",
                "Expand the base",
                ExpandSettings(hidden_size=256, intermediate_size=1024, num_layers=10, num_heads=4),
            ),
            # One schedule over three stages: warm up once, stay, decay in the last.
            Stage(
                "general",
                "pretrain",
                "General text",
                _stage((GENERAL,), 8_000_000, GROWN_RATE, warmup_fraction=0.02),
            ),
            Stage(
                "narrative",
                "pretrain",
                "Narrative text, with general text again",
                _stage(
                    (_share(NARRATIVE, 60), _again("general", 40)),
                    7_000_000,
                    GROWN_RATE,
                    carry_optimizer=True,
                ),
            ),
            Stage(
                "textbook",
                "pretrain",
                "Textbook text, with both others again",
                _stage(
                    (_share(TEXTBOOK, 40), _again("general", 47), _again("narrative", 13)),
                    20_000_000,
                    GROWN_RATE,
                    decay_fraction=1.0,
                    carry_optimizer=True,
                ),
            ),
        ),
        pair=("base", "textbook"),
        notes=(
            "Muon: 9 % fewer bits per byte than AdamW after the same 1.5 million tokens.",
            "Later stages read earlier text again: a small model soon forgets what it no longer "
            "sees.",
        ),
    )


def _share(source: Source, weight: float) -> Source:
    return Source(kind=source.kind, name=source.name, weight=weight)


def _again(stage_name: str, weight: float) -> Source:
    return Source(kind="replay", name=stage_name, weight=weight)


def _stage(
    sources: tuple[Source, ...],
    num_tokens: int,
    learning_rate: float,
    *,
    warmup_fraction: float = 0.0,
    decay_fraction: float = 0.0,
    carry_optimizer: bool = False,
) -> PretrainSettings:
    return PretrainSettings(
        sources=sources,
        budget="tokens",
        num_steps=-(-num_tokens // (BATCH_SIZE * WINDOW_TOKENS)),
        num_tokens=num_tokens,
        batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE,
        optimizer="muon",
        learning_rate=learning_rate,
        warmup_fraction=warmup_fraction,
        schedule="wsd",
        decay_fraction=decay_fraction,
        carry_optimizer=carry_optimizer,
        weight_decay=0.1,
        precision="bf16",
        validation_windows=64,
        validate_every=250,
        checkpoint_every=250,
    )
