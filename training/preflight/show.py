"""A report as text for a terminal. Standard library only."""

from training.preflight.report import ERROR, NOTE, WARNING, Report, StageFigures, Total

UNKNOWN = "-"
HEADINGS = (
    *("stage", "steps", "tokens", "tokens/s", "time", "energy"),
    *("checkpoint", "text", "memory"),
)
WINDOW_CHARACTERS = 200
TITLES = {ERROR: "Error", WARNING: "Warning", NOTE: "Note"}


def describe_report(report: Report) -> str:
    """Return first windows, the table of stages, what all takes together, and every problem."""
    lines = [*_windows(report), *_table(report.stages)]
    if report.total:
        lines += ["", *_total(report.total, report.steps_rehearsed)]
    lines += ["", *_problems(report)]
    return "\n".join(lines).strip()


def _windows(report: Report) -> list[str]:
    lines = []
    for window in report.windows:
        text = " ".join(window.text.split())
        shown = text if len(text) <= WINDOW_CHARACTERS else f"{text[:WINDOW_CHARACTERS]} ..."
        lines += [f"{window.stage}, first {window.num_tokens} tokens of {window.source}:"]
        lines += [f"  {shown}", ""]
    return lines


def _table(stages: tuple[StageFigures, ...]) -> list[str]:
    if not stages:
        return []
    rows = [HEADINGS, *map(_row, stages)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(stage: StageFigures) -> tuple[str, ...]:
    memory = stage.memory_measured or stage.memory_predicted
    speed = stage.tokens_per_second
    return (
        stage.name,
        f"{stage.steps:,}" if stage.steps else UNKNOWN,
        f"{stage.tokens:,}" if stage.tokens else UNKNOWN,
        UNKNOWN if speed is None else f"{speed:,.0f}",
        UNKNOWN if stage.seconds is None else duration(stage.seconds),
        UNKNOWN if stage.energy_joules is None else energy(stage.energy_joules),
        size(stage.checkpoint_bytes),
        size(stage.data_bytes) if stage.data_bytes else UNKNOWN,
        UNKNOWN if memory is None else size(memory),
    )


def _total(total: Total, num_steps: int) -> list[str]:
    used = "not measured: this machine does not tell"
    if total.energy_joules is not None:
        used = f"{energy(total.energy_joules)} ({total.energy_source})"
    return [
        f"The whole run, from {num_steps} rehearsed steps:",
        f"  time    {duration(total.seconds)}",
        f"  energy  {used}",
        f"  disk    {size(total.disk_bytes)} at most, {size(total.disk_left_bytes)} in the end, "
        f"{size(total.disk_free_bytes)} free",
        f"  memory  {size(total.peak_memory_bytes)} at most in one process",
    ]


def _problems(report: Report) -> list[str]:
    if not report.problems:
        return ["No problems found."]
    lines = []
    for problem in report.problems:
        place = f"stage {problem.stage}, " if problem.stage else ""
        lines.append(f"{TITLES[problem.level]} ({place}{problem.what}): {problem.message}")
        if problem.mend:
            lines.append(f"  {problem.mend}")
    return lines


def duration(seconds: float) -> str:
    """Return a time for people: 12 s, 3 min 20 s, 5 h 07 min, 4 d 03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 72:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"


def energy(joules: float) -> str:
    """Return an amount of energy for people, in watt-hours or kilowatt-hours."""
    hours = joules / 3600
    return f"{hours / 1000:,.2f} kWh" if hours >= 1000 else f"{_three_digits(hours)} Wh"


def size(num_bytes: float) -> str:
    """Return an amount of bytes for people, in powers of ten."""
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{_three_digits(num_bytes)} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.2f} GB"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
