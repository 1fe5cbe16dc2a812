"""What every stage is given, and the one way a stage hands over its result."""

import hashlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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

# Why a checkpoint was written: it was time, the run was stopped, a user asked, or the stage ended.
SaveReason = Literal["interval", "stop", "asked", "final"]


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

    def branch_folder(self, stage: Stage) -> Path:
        """Return the checkpoint that the next stage goes on from: the final one, if no other."""
        return self.run.checkpoints_folder / checkpoint_name(stage.name, stage.branch_step())

    def gives_its_moments_on(self, stage: Stage) -> bool:
        """Tell whether the stage right after goes on with the optimizer's moments at its end."""
        if stage.branch_step() != stage.total_steps():
            return False
        following = self.recipe.stages[self.recipe.stages.index(stage) + 1 :]
        settings = following[0].settings if following else None
        return isinstance(settings, PretrainSettings) and settings.carry_optimizer

    def trained_tokens_at(self, stage: Stage, step: int) -> int:
        """Return the training tokens that led to the weights of a step, and no others.

        Fewer than the run's where a stage before branched off.
        """
        earlier = self.recipe.stages[: self.recipe.stages.index(stage)]
        left_out = sum(
            self.tokens_at(other, other.total_steps()) - self.tokens_at(other, other.branch_step())
            for other in earlier
        )
        return self.tokens_at(stage, step) - left_out

    def tokens_before(self, stage: Stage) -> int:
        """Return the training tokens of all earlier stages; the chart's axis goes on from there."""
        total = 0
        for other in self.recipe.stages:
            if other.name == stage.name:
                return total
            if isinstance(other.settings, PretrainSettings):
                total += other.settings.total_tokens()
        return total

    def tokens_at(self, stage: Stage, step: int) -> int:
        """Return the training tokens of the run up to a step of a stage."""
        settings = stage.settings
        own = step * settings.tokens_per_step() if isinstance(settings, PretrainSettings) else 0
        return self.tokens_before(stage) + own

    def seed_of(self, stage: Stage) -> int:
        """Return the seed of a stage's text: stages over the same files read it in other orders."""
        text = f"{self.recipe.seed}:{stage.name}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")

    def started(self, stage: Stage, step: int = 0, **facts: object) -> None:
        """Announce the stage, with what is known of its training."""
        total = stage.total_steps()
        tokens = self.tokens_at(stage, step)
        self.recorder.tokens = tokens
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
        started = time.perf_counter()
        save_checkpoint(folder, model, tokenizer_folder, details, optimizer)
        self.announce_finished(stage, folder, time.perf_counter() - started)
        return folder

    def announce_saved(
        self,
        stage: Stage,
        step: int,
        folder: Path,
        *,
        seconds: float | None,
        reason: SaveReason,
        validation_loss: float | None,
    ) -> None:
        """Tell of a checkpoint: its bytes on the disk, the seconds it took, and why it is there."""
        self.recorder.event(
            "checkpoint",
            stage=stage.name,
            step=step,
            tokens=self.tokens_at(stage, step),
            name=folder.name,
            bytes=sum(path.stat().st_size for path in folder.iterdir()),
            seconds=seconds,
            reason=reason,
            validation_loss=validation_loss,
        )

    def announce_finished(self, stage: Stage, folder: Path, seconds: float | None = None) -> None:
        """Tell that `folder` ends the stage; said again where a kill fell between the two.

        Nobody knows then how many seconds it took.
        """
        step = stage.total_steps()
        details = read_json(folder / TRAINER_FILE)
        self.announce_saved(
            stage,
            step,
            folder,
            seconds=seconds,
            reason="final",
            validation_loss=details.get("validation_loss"),
        )
        self.recorder.event(
            "stage_finished",
            stage=stage.name,
            step=step,
            tokens=self.tokens_at(stage, step),
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
            "tokens": self.trained_tokens_at(stage, step),
            "versions": {
                "stentor": __version__,
                "torch": torch.__version__,
                "transformers": transformers_version,
                "python": platform.python_version(),
            },
        }
