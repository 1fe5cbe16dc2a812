"""A recipe as text for a terminal. Standard library only."""

from training.recipe import CreateSettings, ExpandSettings, PretrainSettings, Recipe, Stage


def describe_recipe(recipe: Recipe) -> str:
    """Return the whole recipe, a paragraph per stage."""
    lines = [
        f"{recipe.name}: {recipe.title}",
        recipe.purpose,
        f"start {recipe.start or 'from nothing'}, seed {recipe.seed}",
        "",
        *(line for stage in recipe.stages for line in (*_describe_stage(stage), "")),
        *(f"Note: {note}" for note in recipe.notes),
    ]
    return "\n".join(lines).rstrip()


def _describe_stage(stage: Stage) -> list[str]:
    heading = f"{stage.name} ({stage.kind}): {stage.title}"
    settings = stage.settings
    if isinstance(settings, PretrainSettings):
        return [heading, *_describe_pretraining(settings)]
    shape = (
        f"  hidden {settings.hidden_size}, intermediate {settings.intermediate_size}, "
        f"{settings.num_layers} layers, {settings.num_heads} heads"
    )
    if isinstance(settings, ExpandSettings):
        return [heading, shape, f"  width {settings.width}, depth {settings.depth}"]
    assert isinstance(settings, CreateSettings)
    sources = "; ".join(source.describe() for source in settings.sources)
    return [heading, shape, f"  vocabulary {settings.vocab_size:,} from {sources}"]


def _describe_pretraining(settings: PretrainSettings) -> list[str]:
    sources = "; ".join(source.describe() for source in settings.sources)
    return [
        f"  text: {sources}",
        f"  {settings.total_steps():,} steps of {settings.batch_size} windows = "
        f"{settings.total_tokens():,} tokens (budget: {settings.budget}; card or recipe says "
        f"{settings.num_steps:,} steps, {settings.num_tokens:,} tokens)",
        f"  learning rate {settings.learning_rate:g}, warm-up {settings.warmup_fraction:.0%}, "
        f"cosine to {settings.final_fraction:.0%}, weight decay {settings.weight_decay:g}, "
        f"clip {settings.clip_norm:g}",
    ]
