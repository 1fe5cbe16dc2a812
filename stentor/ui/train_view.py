"""The Training tab's pieces of HTML, made from a recipe, a status and a digest of events.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from stentor.models import MODELS
from stentor.runs import CHECKPOINT_NAME, Run, Status
from stentor.ui.chart import Digest, StageProgress, as_number
from stentor.ui.shared import duration, escape, file_size, number, short_count
from stentor.ui.train_actions import total_tokens
from training.recipe import Recipe, Stage
from training.settings import (
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    describe_sources,
)

STATE_WORDS = {
    "created": "not started",
    "starting": "starting",
    "running": "running",
    "stopped": "stopped",
    "finished": "finished",
    "failed": "failed",
    "died": "ended unexpectedly",
    "done": "done",
    "waiting": "waiting",
}
CURVE_WORDS = {
    "loss": "Loss",
    "validation": "Validation loss",
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
}
RUN_DATE = re.compile(r"(\d{8}-\d{6})-(.+)")
Rows = list[tuple[str, str]]


def run_label(run: Run, state: str) -> str:
    """Return the line of a run in the list: `practice 22 Nov 12:03, running` (plain text)."""
    found = RUN_DATE.fullmatch(run.id)
    try:
        moment = datetime.strptime(found[1], "%Y%m%d-%H%M%S") if found else None
    except ValueError:  # digits that are no date, in a name that somebody gave
        moment = None
    if found is None or moment is None:
        return f"{run.id}, {state_words(state)}"
    return f"{found[2]}, {moment.day} {moment:%b %H:%M}, {state_words(state)}"


def state_words(state: str) -> str:
    """Return how a state is called (plain text); one of a newer trainer by its own name."""
    return STATE_WORDS.get(state, state)


def stage_cards(recipe: Recipe, status: Status | None = None, digest: Digest | None = None) -> str:
    """Return one card per stage: what it will do and, in a run, how far it is."""
    cards = "".join(
        _card(place, stage, _stage_state(stage, status), digest or Digest())
        for place, stage in enumerate(recipe.stages, 1)
    )
    return f'<ol class="stages">{cards}</ol>'


def _stage_state(stage: Stage, status: Status | None) -> str:
    if status is None:
        return ""
    if stage.name in status.finished_stages or status.state == "finished":
        return "done"
    return status.state if status.stage == stage.name else "waiting"


def _card(place: int, stage: Stage, state: str, digest: Digest) -> str:
    progress = digest.stages.get(stage.name)
    rows = [*_settings_rows(stage)]
    if state and progress:
        rows += _progress_rows(stage, progress, digest)
    word = f'<span class="pill">{escape(state_words(state))}</span>' if state else ""
    return (
        f'<li class="stage" data-state="{escape(state)}"><h4><span class="place">{place}</span>'
        f"<span>{escape(stage.title)}</span></h4>{word}{_bar(state, progress)}{_list(rows)}</li>"
    )


def _bar(state: str, progress: StageProgress | None) -> str:
    if not state:
        return ""
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


def _progress_rows(stage: Stage, progress: StageProgress, digest: Digest) -> Rows:
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
    if progress.finished and progress.started:
        rows.append(("Took", duration(progress.finished - progress.started)))
    return rows


def _growth_rows(growth: Any) -> Rows:  # noqa: ANN401 - one JSON event
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


def _list(rows: Rows) -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<dl>{items}</dl>"


def notes(recipe: Recipe, warnings: Iterable[str] = ()) -> str:
    """Return the recipe's purpose, notes and what stands in its way."""
    start = MODELS[recipe.start].title if recipe.start in MODELS else recipe.start
    origin = f"Starts from {start}." if start else "Starts from nothing."
    lines = "".join(f"<li>{escape(note)}</li>" for note in recipe.notes)
    alerts = "".join(f'<li class="alert">{escape(text)}</li>' for text in warnings)
    return (
        f'<div class="recipe-notes"><p>{escape(recipe.purpose)} {escape(origin)} '
        f"{short_count(total_tokens(recipe))} training tokens.</p><ul>{alerts}{lines}</ul></div>"
    )


def heading(run: Run, recipe: Recipe, status: Status, digest: Digest) -> str:
    """Return the run's name, state, progress and the time that is left."""
    total = total_tokens(recipe)
    seen = max((stage.last_tokens for stage in digest.stages.values()), default=0.0)
    words = [f"{short_count(seen)} of {short_count(total)} tokens"]
    rate = as_number(digest.metrics.get("tokens_per_second"))
    if status.state == "running" and rate and rate > 0:
        words.append(f"{number(rate)} tokens/s")
        words.append(f"about {duration((total - seen) / rate)} left")
    look = "run-error" if status.state in ("failed", "died") else "soft"
    error = f'<p class="{look}">{escape(status.error)}</p>' if status.error else ""
    value = 1.0 if status.state == "finished" else seen / total if total else 0.0
    return (
        f'<h3 data-state="{escape(status.state)}">{escape(recipe.title)} '
        f'<span class="pill">{escape(state_words(status.state))}</span></h3>'
        f'<p class="run-id"><code>{escape(run.id)}</code> {escape(", ".join(words))}</p>'
        f'<progress max="1" value="{value:.3f}" aria-label="Progress of the run"></progress>{error}'
    )


def numbers_table(digest: Digest) -> str:
    """Return the newest numbers as a table: what the chart says to those who cannot see it."""
    rows = []
    for curve, words in CURVE_WORDS.items():
        points = digest.curves[curve]
        place = f"{points[-1].stage} {points[-1].step:,}" if points else ""
        value = number(points[-1].value, 4) if points else "-"
        rows.append(f"<tr><th>{words}</th><td>{value}</td><td>{escape(place)}</td></tr>")
    return (
        "<table><caption>Newest numbers</caption><thead><tr><th>Quantity</th><th>Value</th>"
        f"<th>Stage and step</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def machine_line(digest: Digest) -> str:
    """Return what the run computes on and how busy that is."""
    machine, system = digest.machine, digest.system
    words = []
    if machine:
        words.append(f"{machine.get('name')}, {machine.get('num_cores')} cores")
        words.append(f"torch {machine.get('torch_version')}")
    cpu, memory = as_number(system.get("cpu_percent")), as_number(system.get("memory_bytes"))
    if cpu is not None:
        words.append(f"CPU {cpu:.0f} %")
    if memory is not None:
        words.append(f"memory {file_size(memory)}")
    for place, gpu in enumerate(system.get("gpu") or ()):
        used, total = as_number(gpu.get("memory_bytes")), as_number(gpu.get("total_bytes"))
        words.append(f"GPU {place}: {file_size(used or 0)} of {file_size(total or 0)}")
    return f"<h4>Machine</h4><p>{escape('; '.join(words) or 'Not known yet.')}</p>"


def samples(digest: Digest) -> str:
    """Return the texts the model wrote at the end of its stages, newest first."""
    if not digest.samples:
        return "<p class='soft'>At the end of each stage the model continues a short prompt.</p>"
    return "".join(
        f"<figure><figcaption>{escape(item.get('stage'))}, step {escape(item.get('step'))}"
        f'</figcaption><p><span class="soft">{escape(item.get("prompt"))}</span>'
        f"{escape(item.get('text'))}</p></figure>"
        for item in reversed(digest.samples)
    )


def notices(digest: Digest, shown: str | None = None) -> str:
    """Return values that are not numbers, then the run's warnings and errors, newest first.

    `shown` is left out: the heading says it already.
    """
    lines = [
        f"{CURVE_WORDS[curve]}: not finite (NaN or infinity) and drawn as a gap {count:,} "
        f"{'time' if count == 1 else 'times'}, first {number(point.value)} at step {point.step:,} "
        f"of {point.stage}."
        for curve, count, point in digest.not_finite()
    ]
    items = "".join(f'<li data-kind="error">{escape(line)}</li>' for line in lines)
    for event in reversed(digest.notices):
        message = str(event.get("message", ""))
        if message != shown:
            items += f'<li data-kind="{escape(event["kind"])}">{escape(message)}</li>'
    return f'<ul class="notices">{items}</ul>' if items else ""


def checkpoints(run: Run, names: Iterable[str]) -> str:
    """Return the complete checkpoints, newest first, each with its button."""
    items = "".join(
        f'<li><code>{name}</code><button type="button" class="plain-button" data-key="{name}" '
        f'data-action="open" data-reference="run:{escape(run.id)}/{name}">Open in Compare'
        f'<span class="visually-hidden"> {name}</span></button></li>'
        for name in reversed(list(names))
        if CHECKPOINT_NAME.fullmatch(name)
    )
    if not items:
        return "<h4>Checkpoints</h4><p class='soft'>None yet; the first stage writes one.</p>"
    return f'<h4>Checkpoints</h4><ul class="checkpoints">{items}</ul>'


def actions(status: Status, is_stopping: bool, can_end: bool, refusal: str | None) -> str:
    """Return the buttons that fit the run's state, or why there are none."""
    if refusal:
        return f'<p class="soft">{escape(refusal)}</p>'
    if status.state in ("starting", "running"):
        if can_end:
            return _action("stop", "End the process now")
        return _action("stop", "Stop and save", is_off=is_stopping)
    if status.state == "finished":
        return ""
    return _action("resume", "Start" if status.state == "created" else "Resume")


def _action(action: str, text: str, is_off: bool = False) -> str:
    off = " disabled" if is_off else ""
    return (
        f'<button type="button" class="plain-button" data-key="{action}" data-action="{action}"'
        f"{off}>{text}</button>"
    )
