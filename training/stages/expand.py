"""Stage `expand`: grow the model and measure what that did to its function."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from stentor.errors import OptionError
from stentor.loading import Checkpoint, LlamaShape, open_checkpoint_folder, read_weights
from training.checkpoint import build_model, end_token_of
from training.expansion import expand, grown_shape, plan_growth
from training.generated_text import FLAVOURS, generate_documents
from training.growth_report import (
    GrowthReport,
    describe,
    measure_growth,
    report_to_json,
    warnings_of,
)
from training.recipe import Stage
from training.settings import WINDOW_TOKENS, ExpandSettings
from training.stages.context import StageContext
from training.stages.samples import record_base, record_samples


def expand_stage(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Write the grown checkpoint with its growth report beside the weights."""
    settings = stage.settings
    assert isinstance(settings, ExpandSettings)
    assert previous is not None
    context.started(stage)
    parent = open_checkpoint_folder(previous)
    record_base(context, stage, parent)
    model, report = grow(parent, settings, context.recipe.seed)
    values = report_to_json(report)
    context.recorder.event("growth", stage=stage.name, **values)
    context.recorder.say(describe(report))
    for warning in warnings_of(report):
        context.recorder.warn(warning)
    final = context.finish(stage, model, parent.folder, {"growth": values})
    record_samples(
        context,
        stage,
        0,
        model,
        parent.tokenizer,
        parent.end_tokens,
        point="grown",
        checkpoint=final.name,
    )
    return final


def grow(
    parent: Checkpoint, settings: ExpandSettings, seed: int
) -> tuple[LlamaForCausalLM, GrowthReport]:
    """Return the grown model and the measured report.

    Raises:
        TrainingError: the target is not possible, or an exact strategy was not exact.
        OptionError: heads do not divide the width.
    """
    source = parent.shape
    target = _target_of(source, settings)
    plan = plan_growth(
        source,
        target,
        width=settings.width,
        depth=settings.depth,
        seed=seed,
        symmetry_break=settings.symmetry_break,
    )
    weights = read_weights(parent)
    end_token = end_token_of(parent)
    before = build_model(source, weights, end_token)
    weights, target = expand(
        weights,
        source,
        target,
        width=settings.width,
        depth=settings.depth,
        seed=seed,
        symmetry_break=settings.symmetry_break,
    )
    after = build_model(target, weights, end_token)
    windows = probe_windows(parent.tokenizer, end_token, source.context_length)
    return after, measure_growth(before, after, windows, plan)


def _target_of(source: LlamaShape, settings: ExpandSettings) -> LlamaShape:
    if settings.hidden_size % settings.num_heads:
        raise OptionError(
            f"Hidden size {settings.hidden_size} is no multiple of {settings.num_heads} heads."
        )
    return grown_shape(
        source,
        settings.hidden_size,
        settings.intermediate_size,
        settings.num_layers,
        settings.num_heads,
        settings.vocab_size,
    )


def probe_windows(
    tokenizer: Tokenizer, end_token: int, length: int = WINDOW_TOKENS
) -> torch.Tensor:
    """Return a few windows of generated text, (windows, at most 512): the same for every parent."""
    length = min(length, WINDOW_TOKENS)
    windows = []
    for flavour in FLAVOURS:
        ids: list[int] = []
        for document in generate_documents(flavour):
            ids += [*tokenizer.encode(document, add_special_tokens=False).ids, end_token]
            if len(ids) >= length:
                break
        windows.append(ids[:length])
    return torch.tensor(windows)
