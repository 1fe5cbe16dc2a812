"""What a preflight or a rehearsal found, as plain values and as JSON. Standard library only.

Lengths are in bytes, times in seconds, energy in joules. A figure that is not known is None.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from stentor.errors import StentorError

ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = (ERROR, WARNING, NOTE)
# What a problem is about.
DATA, DISK, MEMORY, GPU, OUTPUT = "data", "disk", "memory", "gpu", "output"
TOKENIZER, RATE, RECIPE = "tokenizer", "learning rate", "recipe"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or worth knowing; `mend` is empty where the message says it."""

    stage: str | None
    level: str
    what: str
    message: str
    mend: str = ""


@dataclass(frozen=True)
class Window:
    """The first packed window of one source, as the model will see it."""

    stage: str
    source: str
    text: str
    num_tokens: int


@dataclass(frozen=True)
class StageFigures:
    """What one stage takes. `tokens` and `steps` are 0 where nothing is trained.

    `memory_*` are of one process; `checkpoint_bytes` is a checkpoint that training can go on from,
    or the only one of a stage without steps.
    """

    name: str
    tokens: int
    steps: int
    checkpoint_bytes: int
    data_bytes: int
    memory_predicted: int | None = None
    memory_limit: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    energy_joules: float | None = None
    memory_measured: int | None = None


@dataclass(frozen=True)
class Total:
    """What the whole run takes. `disk_bytes` at its fullest, `disk_left_bytes` when it is over."""

    seconds: float
    energy_joules: float | None
    energy_source: str | None
    disk_bytes: int
    disk_left_bytes: int
    disk_free_bytes: int
    peak_memory_bytes: int


@dataclass(frozen=True)
class Report:
    """All of it. `total` and `steps_rehearsed` need a rehearsal."""

    problems: tuple[Problem, ...] = ()
    windows: tuple[Window, ...] = ()
    stages: tuple[StageFigures, ...] = ()
    total: Total | None = None
    machine: dict[str, Any] = field(default_factory=dict)
    steps_rehearsed: int = 0

    @property
    def has_errors(self) -> bool:
        """Tell whether the run cannot end well as it is planned."""
        return any(problem.level == ERROR for problem in self.problems)


def problem_of(error: StentorError, what: str, stage: str | None = None, mend: str = "") -> Problem:
    """Return an error meant for the user as a problem, without the stage that it may name first."""
    message = str(error)
    return Problem(stage, ERROR, what, message.removeprefix(f"Stage {stage}: "), mend)


def sorted_problems(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return them worst first, each told once."""
    return tuple(sorted(dict.fromkeys(problems), key=lambda found: LEVELS.index(found.level)))


def report_to_json(report: Report) -> dict[str, Any]:
    """Return the report as plain JSON values."""
    return asdict(report)
