"""The control of the demo pair: its big model from random weights, on the same text and tokens.

What growing was worth is the difference; training/LOG.md has it.
"""

from dataclasses import replace

from training.recipe import Recipe
from training.recipes.demo_pair import GROWN_RATE, demo_pair
from training.settings import CreateSettings, ExpandSettings, PretrainSettings


def demo_pair_scratch() -> Recipe:
    """Return the demo pair's stages without growing: the big shape from the first token on."""
    create, base, expand, general, *later = demo_pair().stages
    assert isinstance(create.settings, CreateSettings)
    assert isinstance(expand.settings, ExpandSettings)
    assert isinstance(base.settings, PretrainSettings)
    assert isinstance(general.settings, PretrainSettings)
    size = expand.settings
    random_start = replace(
        create.settings,
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_layers=size.num_layers,
        num_heads=size.num_heads,
    )
    # One warm-up and one decay over all stages: the best that is known for random weights.
    first = replace(
        base.settings, learning_rate=GROWN_RATE, warmup_fraction=0.02, decay_fraction=0.0
    )
    second = replace(general.settings, warmup_fraction=0.0, carry_optimizer=True)
    return Recipe(
        name="demo-pair-scratch",
        title="The demo pair's control, from scratch",
        purpose="Trains the demo pair's big model from random weights: what was growing worth?",
        start=None,
        stages=(
            replace(create, title="Tokenizer and random weights", settings=random_start),
            replace(base, title="General text", settings=first),
            replace(general, title="General text, the second part", settings=second),
            *later,
        ),
        notes=(
            "The same text, tokens and batches as demo-pair, stage by stage; only the growth is "
            "left out.",
        ),
    )
