"""The card's growth with what is known to help: exact growth, one schedule, replay. Unproven here.

Text, steps, tokens and batches are the card's, so that both recipes can be compared at equal cost;
`notes` say what is different and why.
"""

from dataclasses import replace

from training.recipe import Recipe, Stage
from training.recipes.card import CHECKPOINT_EVERY, FINEWEB_EDU, SCIPHI, VALIDATE_EVERY
from training.settings import ExpandSettings, PretrainSettings, Source

# One peak for all stages, that of the card's first two: the moments of AdamW are carried on, and a
# jump between stages would be a second warm-up.
LEARNING_RATE = 2e-4
# Of the first stage's steps: 2 % of all steps.
WARMUP_FRACTION = 0.05
# Of the last stage's steps: 19 % of all steps (20 % where the budget is tokens), to a tenth.
DECAY_FRACTION = 0.6
FINAL_FRACTION = 0.1
MICRO_BATCH_SIZE = 32
GENERAL_AGAIN = Source(kind="replay", name="general", weight=25.0)


def stentor_big_plus() -> Recipe:
    """Return the improved recipe for Stentor-Big."""
    fiction_again = Source(kind="replay", name="narrative", weight=10.0)
    general = (FINEWEB_EDU,)
    narrative = (Source(kind="files", name="narrative", weight=75.0), GENERAL_AGAIN)
    # The textbook stage's own 65 % are the card's two collections in equal parts.
    textbook = (_weighted(FINEWEB_EDU, 32.5), _weighted(SCIPHI, 32.5), GENERAL_AGAIN, fiction_again)
    return Recipe(
        name="stentor-big-plus",
        title="Stentor-Big, grown exactly",
        purpose="The card's text and cost with exact growth, one schedule and replay.",
        start="stentor-30m",
        stages=(
            Stage("expand", "expand", "Expand 30M to 142M exactly", ExpandSettings()),
            Stage(
                "general",
                "pretrain",
                "General: warm up once, then stable",
                _stage(general, 9_500, 279_000_000, 128, warmup_fraction=WARMUP_FRACTION),
            ),
            Stage(
                "narrative",
                "pretrain",
                "Narrative: your own stories, with general text again",
                _stage(narrative, 6_500, 1_030_000_000, 128, carry_optimizer=True),
            ),
            Stage(
                "textbook",
                "pretrain",
                "Textbook: the best text while the rate decays",
                _stage(
                    textbook,
                    7_171,
                    1_020_000_000,
                    192,
                    decay_fraction=DECAY_FRACTION,
                    carry_optimizer=True,
                ),
            ),
        ),
        notes=NOTES,
    )


NOTES = (
    "Growth: zero-padding (Gesmundo, arXiv 2308.06103, with epsilon halved as well) and identity "
    "copies between the layers (as LLaMA Pro, arXiv 2401.02415) leave the function unchanged, so "
    "nothing has to be learnt again. Nobody has shown which growth ends best at this size: "
    "`python -m training compare-growth` shows what it does here.",
    "Schedule: one warm-up, a stable rate and one decay over all three stages, going on with the "
    "optimizer's moments. Warming up again first raises the loss (Gupta); growing once and going "
    "on at the same rate of such a schedule is what arXiv 2511.04981 does.",
    "The decay, the last fifth of all steps, falls into the textbook stage: the best text comes "
    "last, while the rate decays, as in OLMo 2 and 3.",
    "Replay: small models forget most (Bethune, arXiv 2502.06042; Yildiz, arXiv 2402.17400), and a "
    "little replay is worth much (arXiv 2508.01908). A quarter is what a strong change of text "
    "asks for (Ibrahim); in our own toy 20 % of the old text took away two thirds of the "
    "forgetting. Nobody has tested general, fiction and textbook in this order.",
    "No text is read more than four times: up to there a small collection is nearly as good as "
    "fresh text (Muennighoff).",
    "Rates to try first, each for 2 % of the tokens: 2e-4, 1e-4 and 5e-5. If there is a checkpoint "
    "of the small model from before its rate decayed, grow that one.",
    "Without gradient checkpointing, which costs about a quarter of the speed: made for 24 GB. "
    "Short of memory, lower micro_batch_size or switch it on; the result is the same but for "
    "rounding.",
    "The narrative stage reads your own files: the author's collection is not published.",
)


def _weighted(source: Source, weight: float) -> Source:
    return replace(source, weight=weight)


def _stage(
    sources: tuple[Source, ...],
    num_steps: int,
    num_tokens: int,
    batch_size: int,
    *,
    warmup_fraction: float = 0.0,
    decay_fraction: float = 0.0,
    carry_optimizer: bool = False,
) -> PretrainSettings:
    return PretrainSettings(
        sources=sources,
        num_steps=num_steps,
        num_tokens=num_tokens,
        batch_size=batch_size,
        micro_batch_size=MICRO_BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        warmup_fraction=warmup_fraction,
        schedule="wsd",
        decay_fraction=decay_fraction,
        final_fraction=FINAL_FRACTION,
        carry_optimizer=carry_optimizer,
        validation_windows=64,
        validate_every=VALIDATE_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
    )
