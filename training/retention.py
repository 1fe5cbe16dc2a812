"""Which checkpoints of a stage are kept, and which one a resumed run goes on from."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.errors import ModelError
from stentor.loading import read_json
from stentor.runs import Run, list_checkpoints
from training.checkpoint import open_sound, remove_checkpoint
from training.integrity import TRAINER_FILE


@dataclass(frozen=True)
class Resumed:
    """A sound checkpoint of the stage at hand to go on from, its steps and its trainer.json."""

    folder: Path
    step: int
    details: dict[str, Any]


def newest_sound_checkpoint(run: Run, stage: str) -> tuple[Resumed | None, list[str]]:
    """Return the newest checkpoint of a stage whose every file is what was written.

    With it comes what is wrong with newer ones, in words.
    """
    problems: list[str] = []
    for step, folder in reversed(_checkpoints_of(run, stage)):
        try:
            details = open_sound(folder, to_resume=True)
        except ModelError as error:
            problems.append(f"Checkpoint {folder.name} is passed over: {error}")
        else:
            return Resumed(folder, step, details), problems
    return None, problems


def prune_checkpoints(
    run: Run, stage: str, step: int, *, keep_last: int, keep_best: bool, keep_step: int
) -> None:
    """Delete what need not be kept now that the checkpoint of `step` is written.

    Kept are the `keep_last` newest up to `step`, that of `keep_step`, and with `keep_best` the one
    whose own measured validation loss is lowest. Newest means most steps, not the folder's time,
    which a copied run does not keep. Checkpoints beyond `step` were passed over as damaged: they
    count for nothing, and the stage writes them anew. What a killed process left unfinished goes
    as well.
    """
    written = [item for item in _checkpoints_of(run, stage) if item[0] <= step]
    kept = {folder for _, folder in written[-keep_last:]}
    kept |= {folder for number, folder in written if number == keep_step}
    losses = [(_validation_loss(folder), number, folder) for number, folder in written]
    measured = [item for item in losses if math.isfinite(item[0])]
    if keep_best and measured:
        kept.add(min(measured)[2])
    for _, folder in written:
        if folder not in kept:
            remove_checkpoint(folder)
    for left_over in run.checkpoints_folder.glob(f".{stage}-*"):
        shutil.rmtree(left_over, ignore_errors=True)


def _validation_loss(folder: Path) -> float:
    """Return the held-out loss measured at a checkpoint's own step, NaN where none was."""
    try:
        loss = read_json(folder / TRAINER_FILE).get("validation_loss")
    except ModelError:
        return math.nan
    return loss if isinstance(loss, float) else math.nan


def _checkpoints_of(run: Run, stage: str) -> list[tuple[int, Path]]:
    """Return a stage's checkpoints with their steps, fewest steps first."""
    of_stage = [path for path in list_checkpoints(run) if path.name.rpartition("-")[0] == stage]
    return sorted((int(path.name.rpartition("-")[2]), path) for path in of_stage)
