"""The recipe that made the embedded demo pair: tokenizer, base, expansion, three stages."""

from training.recipe import CreateSettings, ExpandSettings, PretrainSettings, Recipe, Source, Stage

FILES = (Source(kind="files"),)


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
            Stage("base", "pretrain", "Train the base", _stage(12_000_000, 3e-3)),
            Stage(
                "expand",
                "expand",
                "Expand the base",
                ExpandSettings(hidden_size=256, intermediate_size=1024, num_layers=10, num_heads=4),
            ),
            Stage("general", "pretrain", "General text", _stage(500_000, 1.5e-3)),
            Stage("narrative", "pretrain", "Narrative text", _stage(500_000, 1.2e-3)),
            Stage("textbook", "pretrain", "Textbook text", _stage(500_000, 1e-3)),
        ),
    )


def _stage(num_tokens: int, learning_rate: float) -> PretrainSettings:
    return PretrainSettings(
        sources=FILES,
        budget="tokens",
        num_tokens=num_tokens,
        batch_size=8,
        micro_batch_size=4,
        learning_rate=learning_rate,
        final_fraction=0.1,
        validation_windows=32,
        validate_every=40,
        checkpoint_every=100,
    )
