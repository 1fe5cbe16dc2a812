"""What a pre-training stage goes on from: its own newest sound checkpoint, or its input."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from training.checkpoint import checkpoint_name
from training.integrity import TRAINER_FILE
from training.recipe import Stage
from training.retention import Resumed, newest_sound_checkpoint
from training.settings import PretrainSettings
from training.stages.context import StageContext

# Settings that decide which windows a step sees, beside the recipe's seed.
DECIDE_WINDOWS = (
    "seed",
    "sources",
    "budget",
    "num_steps",
    "num_tokens",
    "batch_size",
    "validation_windows",
)


@dataclass(frozen=True)
class Start:
    """What a stage starts from: `previous`, its input, or where it was left (`resumed`)."""

    stage: Stage
    settings: PretrainSettings
    previous: Path
    resumed: Resumed | None
    parent: Checkpoint

    @property
    def step(self) -> int:
        """Return the steps that are behind."""
        return self.resumed.step if self.resumed else 0


def find_start(stage: Stage, context: StageContext, previous: Path) -> Start:
    """Return the newest sound checkpoint of the stage, or its input; warn of damaged ones.

    Raises:
        OptionError: the recipe was changed in what a stage under way cannot change.
    """
    settings = stage.settings
    assert isinstance(settings, PretrainSettings)
    resumed = _find_resumed(stage, context)
    if resumed:
        _check_unchanged(settings, resumed, context)
    folder = resumed.folder if resumed else previous
    if folder.parent == context.run.checkpoints_folder:  # not the recipe's start model
        context.recorder.update(checkpoint=folder.name)
    return Start(stage, settings, previous, resumed, open_checkpoint_folder(folder))


def _find_resumed(stage: Stage, context: StageContext) -> Resumed | None:
    """Return what the main worker finds to go on from; the others open the same."""
    resumed: Resumed | None = None
    if context.workers.is_main:
        resumed, problems = newest_sound_checkpoint(context.run, stage.name)
        for problem in problems:
            context.recorder.warn(problem)
    step = context.workers.of_main(resumed.step if resumed else 0)
    if step and not resumed:
        folder = context.run.checkpoints_folder / checkpoint_name(stage.name, step)
        resumed = Resumed(folder, step, read_json(folder / TRAINER_FILE))
    return resumed


def _check_unchanged(settings: PretrainSettings, resumed: Resumed, context: StageContext) -> None:
    """Compare the recipe with the one that the checkpoint was trained by; tell of a difference.

    Raises:
        OptionError: it decides which windows a step sees. Found here, before text is prepared anew.
    """
    before = resumed.details.get("settings")
    if not isinstance(before, dict):  # a checkpoint of an earlier version
        return
    before = {**before, "seed": resumed.details.get("seed")}
    now = {**json.loads(json.dumps(asdict(settings))), "seed": context.recipe.seed}
    for values in (before, now):
        values["sources"] = [_text_of(source) for source in values.get("sources", ())]
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    words = {name: f"{name} is {now[name]} and was {before[name]}" for name in changed}
    fixed = [words[name] for name in changed if name in DECIDE_WINDOWS]
    if fixed:
        raise OptionError(
            f"The recipe was changed since {resumed.folder.name}: {'; '.join(fixed)}. A stage that "
            "has begun cannot change which windows its steps see. Put recipe.json back, or start a "
            "new run."
        )
    if changed:
        context.recorder.warn(
            f"The recipe was changed since {resumed.folder.name}: {'; '.join(words.values())}."
        )


def _text_of(source: dict[str, Any]) -> dict[str, Any]:
    """Return a source without its licence, which earlier versions did not note."""
    return {name: value for name, value in source.items() if name != "licence"}
