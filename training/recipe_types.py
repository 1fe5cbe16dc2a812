"""What a recipe and its stages are: frozen dataclasses, checked in recipe_problems.py.

Import them from training/recipe.py. Standard library only.
"""

from dataclasses import dataclass, field

from stentor.knobs import knob
from training.alarm_settings import AlarmSettings
from training.settings import PretrainSettings, StageSettings

# What every checkpoint continues, always from the same seed: a story, a fact, an explanation.
SAMPLE_PROMPTS = ("One morning the", "The river is", "Water boils when", "She opened the door and")


@dataclass(frozen=True)
class Stage:
    """One step of a recipe; `name` also names its checkpoints."""

    name: str
    kind: str
    title: str
    settings: StageSettings
    skip: bool = False  # kept in a plan and left out of a run, see recipe.without_skipped

    def total_steps(self) -> int:
        """Return the optimizer steps of this stage (0 where nothing is trained)."""
        return self.settings.total_steps() if isinstance(self.settings, PretrainSettings) else 0

    def branch_step(self) -> int:
        """Return the step that the next stage goes on from (0 where nothing is trained)."""
        return self.settings.branch_step() if isinstance(self.settings, PretrainSettings) else 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run goes. `start`: a model reference, or None: from nothing."""

    name: str
    title: str
    purpose: str
    start: str | None
    stages: tuple[Stage, ...]
    seed: int = knob(0, low=0, high=2**63 - 1, step=1, help="Of data order and new weights")
    num_threads: int | None = knob(None, low=1, high=1024, step=1, help="Nothing: all cores")
    num_processes: int | None = knob(
        None, low=1, high=64, step=1, help="That train together; nothing: one per GPU, else one"
    )
    devices: str = knob("", help="GPUs to train on, such as 0 or 0,1; nothing: all of them")
    sample_prompts: tuple[str, ...] = SAMPLE_PROMPTS
    alarms: AlarmSettings = field(default_factory=AlarmSettings)
    notes: tuple[str, ...] = ()
    # Two training stages, before and after growing, whose models are packed at the end of the run
    # (training/pair/); nothing: none are.
    pair: tuple[str, ...] = ()

    def device_numbers(self) -> tuple[int, ...] | None:
        """Return the GPUs that `devices` names; None: whatever there is."""
        return tuple(int(part) for part in self.devices.split(",")) if self.devices else None
