"""The kinds of stages: each turns a checkpoint folder into a checkpoint folder."""

from collections.abc import Callable
from pathlib import Path

from training.recipe import Stage
from training.stages.context import StageContext
from training.stages.create import create
from training.stages.expand import expand_stage
from training.stages.pretrain import pretrain

# A stage returns its final checkpoint, or None when it was asked to stop (and has saved).
STAGES: dict[str, Callable[[Stage, StageContext, Path | None], Path | None]] = {
    "create": create,
    "expand": expand_stage,
    "pretrain": pretrain,
}
