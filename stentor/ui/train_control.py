"""A run's state in words, the buttons that fit it, why it ended, and its place in the line.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing; what a
button does is in train_actions.py.
"""

from collections.abc import Sequence

from stentor.jobs import active_runs
from stentor.run_devices import describe_devices, devices_of, share_device
from stentor.run_queue import queued_runs, rivals_before
from stentor.runs import Run, Status, tail_log
from stentor.ui.shared import escape

ORDINALS = ("next", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
LAST_LINES = 14
MAX_LINE = 300  # characters of one of them
LOG_TAIL_BYTES = 6_000
# What happens next, for each state that has buttons.
HINTS = {
    "active": "Stop and save writes a checkpoint after the present step and ends. Stop now ends at "
    "once; the work since the last checkpoint is then repeated by Resume.",
    "stopping": "Stop now does not wait for the checkpoint.",
    "queued": "It starts by itself once its devices are free.",
    "created": "Nothing has been done yet. Start begins with the first stage.",
    "finished": "Model folder writes the weights with a model card, for others to use.",
    "resumable": "Resume verifies the last checkpoint{name} first, and goes on from it step for "
    "step. A damaged one is passed over for the one before.",
}


def actions(status: Status, is_stopping: bool, refusal: str | None) -> str:
    """Return the buttons that fit the run's state and what they do, or why there are none."""
    if refusal:
        return f'<p class="refusal">{escape(refusal)} Finished runs can be looked at here.</p>'
    state = status.state
    if state in ("starting", "running"):
        stop = _button(
            "stop", "Stopping ..." if is_stopping else "Stop and save", is_off=is_stopping
        )
        wishes = _button("save", "Save now") + _button("sample", "Sample now")
        buttons = stop + wishes + _button("stop_now", "Stop now", look="danger")
        return _row(buttons + _button("clone", "Clone"), "stopping" if is_stopping else "active")
    if state == "queued":
        moves = _button("queue_up", "Move up") + _button("queue_down", "Move down")
        return _row(moves + _button("unqueue", "Take out of the line") + _ends(), "queued")
    if state == "created":
        return _row(_button("start", "Start", look="main") + _line_up() + _ends(), "created")
    if state == "finished":
        return _row(_button("hand_over", "Model folder ...", look="main") + _ends(), "finished")
    name = f", {escape(status.checkpoint)}," if status.checkpoint else ""
    return _row(_button("resume", "Resume", look="main") + _line_up() + _ends(), "resumable", name)


def _line_up() -> str:
    return _button("enqueue", "Put in line")


def _ends() -> str:
    return _button("clone", "Clone") + _button("delete", "Delete ...", look="danger")


def _row(buttons: str, hint: str = "", name: str = "") -> str:
    text = HINTS[hint].format(name=name) if hint else ""
    told = f'<p class="soft action-hint">{text}</p>' if text else ""
    return f'<div class="action-row">{buttons}</div>{told}'


def _button(action: str, text: str, is_off: bool = False, look: str = "") -> str:
    off = " disabled" if is_off else ""
    return (
        f'<button type="button" class="plain-button {look}" data-key="{action}" '
        f'data-action="{action}"{off}>{text}</button>'
    )


def trouble(run: Run, status: Status, refusal: str | None) -> str:
    """Return why a run ended before its end, with the last lines of its log.

    Under a `refusal` strangers are watching: the log names folders of this machine.
    """
    if status.state not in ("failed", "died"):
        return ""
    title = _where(status)
    why = (status.error or "").removeprefix(f"{title}: ")  # who died says where by itself
    reason = f"<p>{escape(why[:1].upper() + why[1:])}</p>" if why else ""
    lines = [] if refusal else tail_log(run, LOG_TAIL_BYTES).splitlines()[-LAST_LINES:]
    text = escape("\n".join(line[:MAX_LINE] for line in lines))
    log = f"<h5>Last lines of the log</h5><pre>{text}</pre>" if lines else ""
    return f'<section class="trouble"><h4>{escape(title)}</h4>{reason}{log}</section>'


def _where(status: Status) -> str:
    word = "Died" if status.state == "died" else "Failed"
    if not status.stage:
        return f"{word} before its first stage"
    return f"{word} at step {status.step:,} of {status.stage}"


def queue_note(run: Run, status: Status) -> str:
    """Return a queued run's place, `Second in line for GPU 0.`, and the line it stands in."""
    if status.state != "queued":
        return ""
    devices = devices_of(run)
    place = len(rivals_before(run))
    word = ORDINALS[place] if place < len(ORDINALS) else f"number {place + 1}"
    line, going = _rivals(queued_runs(), devices), _rivals(active_runs(), devices)
    now = f", after {', '.join(map(_code, going))}, which is going now" if going else ""
    items = "".join(_in_line(other, other.id == run.id) for other in line)
    return (
        f'<p class="queue-note">{word.capitalize()} in line for '
        f"{escape(describe_devices(devices))}{now}.</p>"
        f'<ol class="queue" aria-label="The line for these devices">{items}</ol>'
    )


def _rivals(runs: Sequence[Run], devices: str) -> list[Run]:
    """Return those of `runs` that share one of these devices."""
    return [run for run in runs if share_device(devices, devices_of(run))]


def _in_line(run: Run, is_this: bool) -> str:
    if is_this:
        return f'<li aria-current="true">{_code(run)} this run</li>'
    return f"<li>{_code(run)}</li>"


def _code(run: Run) -> str:
    return f"<code>{escape(run.id)}</code>"
