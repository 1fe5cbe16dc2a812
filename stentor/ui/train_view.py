"""The parts of a run's page as HTML, made from its recipe, its status and a digest of its events.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing. The
pipeline is in train_cards.py, buttons and endings in train_control.py, the machine in
train_machine.py, checkpoints in train_checkpoints.py.
"""

import re
from datetime import datetime

from stentor.runs import Run, Status
from stentor.ui import train_checkpoints, train_control, train_machine
from stentor.ui.chart import Digest, as_number
from stentor.ui.shared import duration, escape, number, short_count
from stentor.ui.train_actions import seconds_since_stop, total_tokens
from stentor.ui.train_cards import stage_cards, state_words
from training.recipe import Recipe

CURVE_WORDS = {
    "loss": "Loss",
    "validation": "Validation loss",
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
    "mfu": "MFU",
}
ALARM_WORDS = {
    "not_finite": "Not a number",
    "spike": "Loss spike",
    "plateau": "Plateau",
    "stall": "Stall",
    "slow": "Slow",
    "hot_gpu": "Hot GPU",
    "throttled_gpu": "Throttled GPU",
    "disk_low": "Disk low",
    "dead_worker": "Dead worker",
}
NEWEST = "Newest numbers"
RUN_DATE = re.compile(r"(\d{8}-\d{6})-(.+)")


def parts(
    run: Run, recipe: Recipe, status: Status, digest: Digest, refusal: str | None
) -> dict[str, str]:
    """Return the HTML of each part of a run's page, by the name of its place in it.

    The same for everyone who watches; the places are in train_monitor.py.
    """
    return {
        "heading": heading(run, recipe, status, digest),
        # What has ended on purpose has no open alarm, whatever it last said.
        "alarms": "" if status.state in ("stopped", "finished") else alarms(run, digest),
        "trouble": train_control.trouble(run, status, refusal),
        "actions": train_control.actions(status, seconds_since_stop(run) is not None, refusal),
        "cards": stage_cards(recipe, status, digest),
        "notices": notices(digest, status.error),
        "numbers": numbers_table(digest),
        "machine": train_machine.panel(digest),
        "checkpoints": train_checkpoints.panel(run, recipe),
    }


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


def heading(run: Run, recipe: Recipe, status: Status, digest: Digest) -> str:
    """Return the run's name, state, progress and the time that is left."""
    total = total_tokens(recipe)
    seen = max((stage.last_tokens for stage in digest.stages.values()), default=0.0)
    words = [f"{short_count(seen)} of {short_count(total)} tokens"]
    if status.state == "running":
        rate, left = as_number(digest.metrics.get("tokens_per_second")), digest.seconds_left(total)
        words += [f"{number(rate)} tokens/s"] if rate and rate > 0 else []
        words += [f"about {duration(left)} left"] if left is not None else []
    # Why a run failed or died is in the block below; what was asked for is no alarm.
    is_trouble = status.state in ("failed", "died")
    error = f'<p class="soft">{escape(status.error)}</p>' if status.error and not is_trouble else ""
    value = 1.0 if status.state == "finished" else seen / total if total else 0.0
    state = state_words(status.state)
    title = f"{recipe.title}: {state}"
    if status.state == "running":
        title = f"{value:.0%} {title}"
    return (
        f'<h3 data-state="{escape(status.state)}" data-title="{escape(title)}" tabindex="-1">'
        f'{escape(recipe.title)} <span class="pill">{escape(state)}</span></h3>'
        f'<p class="run-id"><code>{escape(run.id)}</code> {escape(", ".join(words))}</p>'
        f'<progress max="1" value="{value:.3f}" aria-label="Progress of the run"></progress>'
        f"{error}{train_control.queue_note(run, status)}"
    )


def alarms(run: Run, digest: Digest) -> str:
    """Return the open alarms, newest first; each can be put away in a browser, one by one."""
    items = "".join(
        f'<li data-alarm="{escape(f"{run.id} {name} {alarm.tokens}")}">'
        f"<div><b>{escape(ALARM_WORDS.get(name, name))}</b> {escape(alarm.message)}</div>"
        f'<button type="button" class="plain-button" data-key="alarm-{escape(name)}" '
        f'data-action="dismiss">Dismiss<span class="visually-hidden"> {escape(name)}</span>'
        "</button></li>"
        for name, alarm in reversed(digest.open_alarms.items())
    )
    return f'<ul class="alarms" role="alert">{items}</ul>' if items else ""


def notices(digest: Digest, shown: str | None = None) -> str:
    """Return values that are not numbers, then the run's warnings and errors, newest first.

    `shown` is left out: the page says it already.
    """
    lines = [
        f"{CURVE_WORDS.get(curve, curve)}: not finite (NaN or infinity) and drawn as a gap "
        f"{count:,} {'time' if count == 1 else 'times'}, first {number(point.value)} at step "
        f"{point.step:,} of {point.stage}."
        for curve, count, point in digest.not_finite()
    ]
    items = "".join(f'<li data-kind="error">{escape(line)}</li>' for line in lines)
    told = {shown}  # a resumed run warns again of what it warned of before
    for event in reversed(digest.notices):
        message = str(event.get("message", ""))
        if message not in told:
            items += f'<li data-kind="{escape(event["kind"])}">{escape(message)}</li>'
        told.add(message)
    if not items:
        return ""
    return (
        '<ul class="notices" tabindex="0" data-key="notices" aria-label="Warnings and news">'
        f"{items}</ul>"
    )


def numbers_table(digest: Digest) -> str:
    """Return the newest numbers as a table: what the chart says to those who cannot see it."""
    rows = "".join(
        f"<tr><th>{escape(words)}</th><td>{_newest(digest, curve)}</td></tr>"
        for curve, words in CURVE_WORDS.items()
    )
    metrics = digest.metrics
    if not metrics:
        return f"<h4>{NEWEST}</h4><p class='soft'>They come with the first training step.</p>"
    step = as_number(metrics.get("step"))
    place = "" if step is None else f"{metrics.get('stage')}, step {step:,.0f}"
    return (
        f'<table><caption>{NEWEST} <span class="soft">{escape(place)}</span></caption>'
        f"<tbody>{rows}</tbody></table>"
    )


def _newest(digest: Digest, curve: str) -> str:
    value = digest.last(curve)
    if value is not None and curve == "mfu":
        return f"{value:.1%}"
    return number(value, 4)
