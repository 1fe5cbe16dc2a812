"""The cards of a plan in words: what each stage will do, and what all of them come to.

A stage may still hold values that are wrong: what cannot be said of it is left out. Knows no
Gradio.
"""

from dataclasses import replace
from typing import Any

from stentor.ui.shared import short_count
from stentor.ui.train_draft import Draft
from training.recipe import Stage
from training.settings import (
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    describe_sources,
)

Rows = list[tuple[str, str]]


def totals(draft: Draft) -> dict[str, Any]:
    """Return what all stages come to: counts, and the same in words."""
    active = [stage for stage in draft.stages if stage is not None and not stage.skip]
    training = [s.settings for s in active if isinstance(s.settings, PretrainSettings)]
    steps = [count for settings in training if (count := _counts(settings))]
    num_steps, num_tokens = sum(count for count, _ in steps), sum(count for _, count in steps)
    words = f"{len(active)} {_plural(len(active), 'stage')}"
    if training:
        words += f", {short_count(num_tokens)} training tokens in {num_steps:,} steps"
    skipped = sum(stage is not None and stage.skip for stage in draft.stages)
    words += f", {skipped} skipped" if skipped else ""
    return {"steps": num_steps, "tokens": num_tokens, "words": words}


def _counts(settings: PretrainSettings) -> tuple[int, int] | None:
    """Return steps and tokens, or None while the numbers they are made of are wrong."""
    numbers = (settings.num_steps, settings.num_tokens, settings.batch_size)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
        return None
    return settings.total_steps(), settings.total_tokens()


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"


def card_of(stage: Stage | None) -> dict[str, Any]:
    """Return the summary of a stage; of values that are still wrong there is none."""
    if stage is None:
        return {"rows": [], "steps": 0, "tokens": 0}
    try:
        rows = _rows(stage)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError):
        rows = []  # a value in it is not of its type; the form says so at its place
    counts = _counts(stage.settings) if isinstance(stage.settings, PretrainSettings) else None
    steps, tokens = counts or (0, 0)
    return {"rows": rows, "steps": steps, "tokens": tokens}


def _rows(stage: Stage) -> Rows:
    settings = stage.settings
    if isinstance(settings, PretrainSettings):
        return [("Text", describe_sources(settings.sources)), *_training_rows(settings)]
    shape = f"{settings.hidden_size} wide, {settings.num_layers} layers"
    if isinstance(settings, ExpandSettings):
        return [
            ("Wider", settings.width.replace("_", " ")),
            ("Deeper", settings.depth.replace("_", " ")),
            ("Shape", shape),
        ]
    assert isinstance(settings, CreateSettings)
    text = describe_sources(settings.sources)
    return [("Text", text), ("Vocabulary", f"{settings.vocab_size:,}"), ("Shape", shape)]


def _training_rows(settings: PretrainSettings) -> Rows:
    counts = _counts(settings)
    if counts is None:
        return []
    by_tokens = settings.budget == "tokens"
    other = replace(settings, budget="steps" if by_tokens else "tokens").total_steps()
    length = f"{counts[0]:,} steps, {short_count(counts[1])} tokens"
    rows = [("Length", length), ("Rate", settings.describe_schedule())]
    if other != counts[0]:
        words = f"{other:,} steps" if by_tokens else f"{short_count(settings.num_tokens)} tokens"
        rows.insert(1, ("Or", f"{words}, if {'steps' if by_tokens else 'tokens'} count"))
    return rows
