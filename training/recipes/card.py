"""The recipe of Stentor-Big's model card: expand Stentor-30M, then three stages as published."""

from training.recipe import Recipe, Stage
from training.settings import ExpandSettings, PretrainSettings, Source

FINEWEB_EDU = Source(
    kind="hub",
    name="HuggingFaceFW/fineweb-edu",
    subset="sample-10BT",
    revision="87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    licence="ODC-By 1.0",
)
SCIPHI = Source(
    kind="hub",
    name="SciPhi/textbooks-are-all-you-need-lite",
    revision="1741312b4bbd4900917c4dbb5a83bb8c9758a6fa",
    column="completion",
)
# Steps, tokens, batch sizes, rates, warm-up, decay and clipping of the stages are the card's; the
# micro batch and the intervals, which it does not name, are ours.
VALIDATE_EVERY = 250
CHECKPOINT_EVERY = 250


def card() -> Recipe:
    """Return the card's recipe; its tokens and its steps disagree, so both are kept."""
    return Recipe(
        name="card",
        title="Stentor-Big, as its card says",
        purpose="Repeats the growth of Stentor-30M into Stentor-Big on one 24 GB GPU.",
        start="stentor-30m",
        stages=(
            Stage(
                "expand",
                "expand",
                "Expand 30M to 142M",
                ExpandSettings(width="slice", depth="random_top"),
            ),
            Stage(
                "general",
                "pretrain",
                "General: FineWeb, educational subset",
                _stage((FINEWEB_EDU,), 9_500, 279_000_000, 128, 2e-4),
            ),
            Stage(
                "narrative",
                "pretrain",
                "Narrative: your own curated stories",
                _stage((Source(kind="files", name="narrative"),), 6_500, 1_030_000_000, 128, 2e-4),
            ),
            Stage(
                "textbook",
                "pretrain",
                "Textbook: FineWeb-Edu and SciPhi",
                _stage((FINEWEB_EDU, SCIPHI), 7_171, 1_020_000_000, 192, 1.5e-4),
            ),
        ),
        notes=(
            "The card's steps and tokens do not agree: its steps are 1.75 billion tokens, it "
            "claims 2.33 billion. The budget decides which of the two counts.",
            "The narrative stage reads your own files: the author's collection is not published.",
            "The author ran stages 2 and 3 on two RTX 4090; here all GPUs of the machine, one or "
            "more, share each batch.",
        ),
    )


def _stage(
    sources: tuple[Source, ...],
    num_steps: int,
    num_tokens: int,
    batch_size: int,
    learning_rate: float,
) -> PretrainSettings:
    return PretrainSettings(
        sources=sources,
        num_steps=num_steps,
        num_tokens=num_tokens,
        batch_size=batch_size,
        micro_batch_size=16,
        learning_rate=learning_rate,
        validation_windows=64,
        validate_every=VALIDATE_EVERY,
        checkpoint_every=CHECKPOINT_EVERY,
        gradient_checkpointing=True,
    )
