"""Samples of a stage: the recipe's prompts, continued by the weights of this moment, as events."""

from collections.abc import Collection
from typing import Literal

from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from stentor.loading import Checkpoint
from training.checkpoint import load_model
from training.recipe import Stage
from training.sample import SAMPLE_PRECISION, SAMPLE_SETTINGS, continue_prompts
from training.stages.context import StageContext

# The start model; the grown one, before it is trained; any other weights.
Point = Literal["base", "grown", "checkpoint"]


def record_samples(
    context: StageContext,
    stage: Stage,
    step: int,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    end_tokens: Collection[int],
    *,
    point: Point = "checkpoint",
    checkpoint: str | None = None,
) -> None:
    """Record one event per prompt of the recipe; for the main worker.

    `checkpoint`: the folder that holds these weights, where one does. Samples follow their
    checkpoint, so a kill between the two loses them and nothing else: a resumed run does not write
    them again. Weights that a run reaches twice are sampled twice, and of two events of the same
    stage, step, point and number the later one counts.

    Raises:
        DiskError: there is no room for an event.
    """
    prompts = context.recipe.sample_prompts
    settings = SAMPLE_SETTINGS
    found = continue_prompts(model, tokenizer, end_tokens, prompts)
    for number, (prompt, sampled) in enumerate(zip(prompts, found, strict=True)):
        context.recorder.event(
            "sample",
            stage=stage.name,
            step=step,
            tokens=context.tokens_at(stage, step),
            point=point,
            checkpoint=checkpoint,
            number=number,
            prompt=prompt,
            text=sampled.text,
            stop_reason=sampled.stop_reason,
            seed=settings.seed,
            settings={
                "temperature": settings.temperature,
                "top_p": settings.top_p,
                "max_new_tokens": settings.max_new_tokens,
            },
            precision=SAMPLE_PRECISION,
        )


def is_start(context: StageContext, stage: Stage) -> bool:
    """Tell whether a stage is the first of a run that has a start model."""
    return context.recipe.start is not None and stage == context.recipe.stages[0]


def record_base(context: StageContext, stage: Stage, parent: Checkpoint) -> None:
    """Record what the start model writes, where `stage` is the first to change it."""
    if is_start(context, stage) and context.recipe.sample_prompts:
        model = load_model(parent)
        record_samples(context, stage, 0, model, parent.tokenizer, parent.end_tokens, point="base")
