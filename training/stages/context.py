"""What every stage is given, and the one way a stage hands over its result."""

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM
from transformers import __version__ as transformers_version

from stentor import __version__
from stentor.loading import read_json
from stentor.runs import Run
from training.checkpoint import checkpoint_name, save_checkpoint
from training.integrity import TRAINER_FILE
from training.recipe import Recipe, Stage
from training.recorder import Recorder
from training.settings import PretrainSettings
from training.workers import Workers


@dataclass(frozen=True)
class StageContext:
    """The run, its recipe, the recorder, and the workers that train together.

    Every worker goes through every stage; only the main one writes into the run folder.
    """

    run: Run
    recipe: Recipe
    recorder: Recorder
    workers: Workers

    @property
    def device(self) -> torch.device:
        """Return where this worker computes."""
        return self.workers.device

    def final_folder(self, stage: Stage) -> Path:
        """Return where a stage's final checkpoint is, or will be."""
        return self.run.checkpoints_folder / checkpoint_name(stage.name, stage.total_steps())

    def gives_its_moments_on(self, stage: Stage) -> bool:
        """Tell whether the stage right after goes on with the optimizer's moments of this one."""
        following = self.recipe.stages[self.recipe.stages.index(stage) + 1 :]
        settings = following[0].settings if following else None
        return isinstance(settings, PretrainSettings) and settings.carry_optimizer

    def tokens_before(self, stage: Stage) -> int:
        """Return the training tokens of all earlier stages; the chart's axis goes on from there."""
        total = 0
        for other in self.recipe.stages:
            if other.name == stage.name:
                return total
            if isinstance(other.settings, PretrainSettings):
                total += other.settings.total_tokens()
        return total

    def seed_of(self, stage: Stage) -> int:
        """Return the seed of a stage's text: stages over the same files read it in other orders."""
        text = f"{self.recipe.seed}:{stage.name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")

    def started(self, stage: Stage, step: int = 0, **facts: object) -> None:
        """Announce the stage, with what is known of its training."""
        total = stage.total_steps()
        tokens = self.tokens_before(stage) + _tokens_of(stage, step)
        self.recorder.update(stage=stage.name, step=step, total_steps=total)
        self.recorder.event(
            "stage_started",
            stage=stage.name,
            stage_kind=stage.kind,
            title=stage.title,
            step=step,
            total_steps=total,
            tokens=tokens,
            **facts,
        )
        self.recorder.say(f"Stage {stage.name}: {stage.title}")

    def finish(
        self,
        stage: Stage,
        model: LlamaForCausalLM,
        tokenizer_folder: Path,
        details: dict[str, Any],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Path:
        """Save the stage's final checkpoint and announce it; for the main worker."""
        folder = self.final_folder(stage)
        details = {**self.provenance(stage, stage.total_steps()), "is_final": True, **details}
        save_checkpoint(folder, model, tokenizer_folder, details, optimizer)
        self.announce_finished(stage, folder)
        return folder

    def announce_finished(self, stage: Stage, folder: Path) -> None:
        """Tell that `folder` ends the stage; said again where a kill fell between the two."""
        step = stage.total_steps()
        tokens = self.tokens_before(stage) + _tokens_of(stage, step)
        details = read_json(folder / TRAINER_FILE)
        self.recorder.event(
            "checkpoint", stage=stage.name, step=step, tokens=tokens, name=folder.name
        )
        self.recorder.event(
            "stage_finished",
            stage=stage.name,
            step=step,
            tokens=tokens,
            checkpoint=folder.name,
            loss=details.get("loss"),
            validation_loss=details.get("validation_loss"),
        )
        earlier = (name for name in self.recorder.status.finished_stages if name != stage.name)
        finished = (*earlier, stage.name)
        self.recorder.update(checkpoint=folder.name, finished_stages=finished, step=step)

    def provenance(self, stage: Stage, step: int) -> dict[str, Any]:
        """Return what a checkpoint must say about where it comes from."""
        return {
            "run": self.run.id,
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "stage": stage.name,
            "step": step,
            "tokens": self.tokens_before(stage) + _tokens_of(stage, step),
            "versions": {
                "stentor": __version__,
                "torch": torch.__version__,
                "transformers": transformers_version,
                "python": platform.python_version(),
            },
        }


def _tokens_of(stage: Stage, step: int) -> int:
    settings = stage.settings
    return step * settings.tokens_per_step() if isinstance(settings, PretrainSettings) else 0
