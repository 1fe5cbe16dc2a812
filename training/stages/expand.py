"""Stage `expand`: grow the model and measure what that did to its function."""

from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from stentor.errors import OptionError
from stentor.loading import Checkpoint, open_checkpoint_folder, read_weights
from training.checkpoint import build_model, end_token_of
from training.expansion import expand, grown_shape, is_exact
from training.generated_text import FLAVOURS, generate_documents
from training.growth_report import GrowthReport, measure_growth
from training.recipe import Stage
from training.settings import WINDOW_TOKENS, ExpandSettings
from training.stages.context import StageContext


def expand_stage(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Write the grown checkpoint with its growth report beside the weights."""
    settings = stage.settings
    assert isinstance(settings, ExpandSettings)
    assert previous is not None
    context.started(stage)
    parent = open_checkpoint_folder(previous)
    model, report = grow(parent, settings, context.recipe.seed)
    values = report_to_json(report)
    context.recorder.event("growth", stage=stage.name, **values)
    context.recorder.say(describe(report))
    return context.finish(stage, model, parent.folder, {"growth": values})


def grow(
    parent: Checkpoint, settings: ExpandSettings, seed: int
) -> tuple[LlamaForCausalLM, GrowthReport]:
    """Return the grown model and the measured report.

    Raises:
        TrainingError: the target is not possible, or an exact strategy was not exact.
        OptionError: heads do not divide the width.
    """
    if settings.hidden_size % settings.num_heads:
        raise OptionError(
            f"Hidden size {settings.hidden_size} is no multiple of {settings.num_heads} heads."
        )
    weights = read_weights(parent)
    target = grown_shape(
        parent.shape,
        settings.hidden_size,
        settings.intermediate_size,
        settings.num_layers,
        settings.num_heads,
    )
    grown, shape = expand(
        weights, parent.shape, target, width=settings.width, depth=settings.depth, seed=seed
    )
    end_token = end_token_of(parent)
    before = build_model(parent.shape, weights, end_token)
    after = build_model(shape, grown, end_token)
    report = measure_growth(
        before,
        after,
        probe_windows(parent.tokenizer, end_token),
        width=settings.width,
        depth=settings.depth,
        claims_exact=is_exact(settings.width, settings.depth),
        seed=seed,
    )
    return after, report


def probe_windows(tokenizer: Tokenizer, end_token: int) -> torch.Tensor:
    """Return a few (windows, 512) of generated text: the same probe for every parent."""
    windows = []
    for flavour in FLAVOURS:
        ids: list[int] = []
        for document in generate_documents(flavour):
            ids += [*tokenizer.encode(document, add_special_tokens=False).ids, end_token]
            if len(ids) >= WINDOW_TOKENS:
                break
        windows.append(ids[:WINDOW_TOKENS])
    return torch.tensor(windows)


def report_to_json(report: GrowthReport) -> dict[str, object]:
    """Return the report with its verdict."""
    return {**asdict(report), "is_exact": report.is_exact}


def describe(report: GrowthReport) -> str:
    """Return the report in one line."""
    return (
        f"{report.width} + {report.depth}: {report.parameters_before:,} -> "
        f"{report.parameters_after:,} parameters; max |delta logit| "
        f"{report.max_logit_difference:.2e} of {report.max_logit:.2f}; loss on generated text "
        f"{report.loss_before:.4f} -> {report.loss_after:.4f} nats"
    )
