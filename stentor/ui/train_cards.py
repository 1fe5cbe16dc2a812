"""The pipeline of a run as connected cards: what each stage does, how far it is, what it changed.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing.
"""

from collections.abc import Mapping
from typing import Any

from stentor.runs import Status
from stentor.ui.chart import Digest, StageProgress, as_number
from stentor.ui.shared import duration, escape, number, short_count
from training.recipe import Recipe, Stage
from training.settings import (
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    describe_sources,
)

STATE_WORDS = {
    "created": "not started",
    "queued": "in line",
    "starting": "starting",
    "running": "running",
    "stopped": "stopped",
    "finished": "finished",
    "failed": "failed",
    "died": "ended unexpectedly",
    "done": "done",
    "waiting": "waiting",
    "skipped": "skipped",
}
# A sign beside each word, so that a state is never told by colour alone.
STATE_SIGNS = {"done": "✓", "failed": "!", "died": "!", "skipped": "-"}
Rows = list[tuple[str, str]]


def state_words(state: str) -> str:
    """Return how a state is called (plain text); one of a newer trainer by its own name."""
    return STATE_WORDS.get(state, state)


def stage_cards(recipe: Recipe, status: Status, digest: Digest) -> str:
    """Return one card per stage: what it will do, and how far it is."""
    cards = "".join(
        _card(place, stage, _stage_state(stage, status), digest)
        for place, stage in enumerate(recipe.stages, 1)
    )
    return f'<ol class="stages" tabindex="0" data-key="stages" aria-label="Stages">{cards}</ol>'


def _stage_state(stage: Stage, status: Status) -> str:
    if stage.skip:
        return "skipped"
    if stage.name in status.finished_stages or status.state == "finished":
        return "done"
    is_here = status.stage == stage.name and status.state not in ("queued", "created")
    return status.state if is_here else "waiting"


def _card(place: int, stage: Stage, state: str, digest: Digest) -> str:
    progress = digest.stages.get(stage.name)
    is_running = state == "running"
    rows = _progress_rows(stage, progress, digest, is_running) if progress else []
    # What is done says it of these two.
    plan = [row for row in _settings_rows(stage) if not rows or row[0] not in ("Steps", "Tokens")]
    word = f'<span class="pill">{escape(state_words(state))}</span>'
    current = ' aria-current="step"' if state in ("starting", "running") else ""
    return (
        f'<li class="stage" data-state="{escape(state)}"{current}><h4><span class="place">'
        f"{STATE_SIGNS.get(state, place)}</span><span>{escape(stage.title)}</span></h4>{word}"
        f"{_bar(state, progress)}{_list(rows)}{_list(plan, 'plan')}</li>"
    )


def _bar(state: str, progress: StageProgress | None) -> str:
    total = progress.total_steps if progress else 0
    value = 1.0 if state == "done" else progress.step / total if progress and total else 0.0
    return f'<progress max="1" value="{value:.3f}" aria-label="Progress of this stage"></progress>'


def _settings_rows(stage: Stage) -> Rows:
    """Return what the recipe says of a stage."""
    settings = stage.settings
    if isinstance(settings, PretrainSettings):
        return [
            ("Text", describe_sources(settings.sources)),
            ("Steps", f"{settings.total_steps():,}"),
            ("Tokens", short_count(settings.total_tokens())),
            ("Batch", f"{settings.batch_size} x 512 tokens"),
            ("Learning rate", settings.describe_schedule()),
        ]
    shape = (
        f"{settings.hidden_size} wide, {settings.num_layers} layers, {settings.num_heads} heads, "
        f"MLP {settings.intermediate_size}"
    )
    if isinstance(settings, ExpandSettings):
        broken = f", break: {settings.symmetry_break}" if settings.width == "clone" else ""
        return [
            ("Wider by", settings.width.replace("_", " ") + broken),
            ("Deeper by", settings.depth.replace("_", " ")),
            ("Shape", shape),
        ]
    assert isinstance(settings, CreateSettings)
    return [
        ("Text", describe_sources(settings.sources)),
        ("Vocabulary", f"{settings.vocab_size:,}"),
        ("Shape", shape),
    ]


def _progress_rows(stage: Stage, progress: StageProgress, digest: Digest, is_running: bool) -> Rows:
    """Return what a run has said of a stage."""
    rows: Rows = []
    if progress.total_steps:
        seen = progress.last_tokens - progress.first_tokens
        rows.append(
            ("Done", f"{progress.step:,} of {progress.total_steps:,}, {short_count(seen)} tokens")
        )
    for curve, words in (("validation", "Val. loss"), ("loss", "Loss")):
        first, last = digest.first(curve, stage.name), digest.last(curve, stage.name)
        if first is not None and last is not None:
            rows.append((words, f"{number(first)} → {number(last)}"))
    if progress.growth:
        rows += _growth_rows(progress.growth)
    rows.append(("Time", _time(stage, progress, digest, is_running)))
    return rows


def _time(stage: Stage, progress: StageProgress, digest: Digest, is_running: bool) -> str:
    """Return the time that a stage has taken, pauses not counted, and what is left of it."""
    spent = duration(progress.last.time - progress.first.time)
    if not is_running or not isinstance(stage.settings, PretrainSettings):
        return spent
    left = digest.seconds_left(progress.first_tokens + stage.settings.total_tokens())
    return spent if left is None else f"{spent}, about {duration(left)} left"


def _growth_rows(growth: Mapping[str, Any]) -> Rows:
    before, after = as_number(growth.get("loss_before")), as_number(growth.get("loss_after"))
    change, limit = (
        as_number(growth.get("max_logit_difference")),
        as_number(growth.get("max_logit")),
    )
    verdict = "same function" if growth.get("is_exact") else "function changed"
    sizes = [as_number(growth.get(f"parameters_{when}")) for when in ("before", "after")]
    return [
        ("Parameters", " → ".join("-" if size is None else short_count(size) for size in sizes)),
        ("Loss", f"{number(before)} → {number(after)}"),
        ("Largest change", f"{number(change, 2)} of logit {number(limit, 3)}: {verdict}"),
    ]


def _list(rows: Rows, look: str = "") -> str:
    if not rows:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f'<dl class="{look}">{items}</dl>' if look else f"<dl>{items}</dl>"
