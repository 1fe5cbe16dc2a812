"""The steps of a pre-training stage: train, validate, save, record, stop, halt."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from stentor.loading import Checkpoint
from training.checkpoint import checkpoint_name, save_checkpoint
from training.dead_units import warning_of
from training.halt import describe_windows, windows_of_step
from training.loop import StepReport, train_steps
from training.memory import MemoryPrediction, reset_peak_memory
from training.memory_check import tell_measured
from training.recipe import Stage
from training.recorder import Wishes
from training.retention import prune_checkpoints
from training.settings import PretrainSettings
from training.stage_data import StageData
from training.stages.context import SaveReason, StageContext
from training.stages.samples import Point, is_start, record_samples
from training.validation import Validation, validate
from training.workers import unwrapped


@dataclass(frozen=True)
class Speed:
    """Operations of training on a token, and FLOP/s that all workers could do at most, if known."""

    flops_per_token: float
    ceiling_flops: float | None

    def mfu(self, tokens_per_second: float) -> float | None:
        """Return model FLOPs utilisation, a share from 0 to 1 (arXiv 2204.02311)."""
        ceiling = self.ceiling_flops
        return tokens_per_second * self.flops_per_token / ceiling if ceiling else None


@dataclass
class Pretraining:
    """One stage around its model; `network`, as the workers prepared it, computes its loss."""

    stage: Stage
    settings: PretrainSettings
    context: StageContext
    parent: Checkpoint
    tokenizer_folder: Path
    first_step: int
    data: StageData
    model: LlamaForCausalLM
    network: nn.Module
    optimizer: torch.optim.Optimizer
    prediction: MemoryPrediction
    speed: Speed
    validation: Validation | None = field(default=None, init=False)
    report: StepReport | None = field(default=None, init=False)

    def run(self) -> Path | None:
        """Train to the end of the stage; None when a stop was asked for and the state is saved.

        Raises:
            TrainingError: loss or gradient are NaN or infinite; nothing of that step is kept.
            DiskError: a checkpoint or an event could not be written.
        """
        reset_peak_memory(self.context.device)
        total_steps = self.settings.total_steps()
        if self.first_step == 0:
            if is_start(self.context, self.stage):
                self._sample(0, "base")
            self._validate(0)
        last = self._train()
        if last < total_steps:
            self.context.recorder.say(f"Stopped at step {last} of {total_steps}.")
            return None
        return self._finish()

    def _train(self) -> int:
        """Take the stage's steps and return the last one taken."""
        settings, workers = self.settings, self.context.workers
        total_steps = settings.total_steps()
        steps = train_steps(
            self.network,
            self.optimizer,
            lambda step: self.data.batch_of_step(step, settings.batch_size),
            settings,
            workers,
            self.first_step,
        )
        for report in steps:
            self.report = report
            self._record(report)
            if not report.is_finite:
                self._halt(
                    f"Loss {report.loss} and gradient norm {report.gradient_norm} at step "
                    f"{report.step}: training has diverged."
                )
            if report.step == total_steps:
                break
            if self._is_to_validate(report.step):
                self._validate(report.step)
            wishes = self._agreed_wishes()
            self._grant(wishes, report.step)
            if wishes.stop:
                return report.step
        return total_steps

    def _agreed_wishes(self) -> Wishes:
        """Return what any worker was asked for, the same on all of them."""
        wishes = self.context.recorder.wishes()
        flags = (wishes.stop, wishes.save, wishes.sample)
        return Wishes(*self.context.workers.any_of(flags))

    def _grant(self, wishes: Wishes, step: int) -> None:
        """Save and sample after a step, where it is time or somebody asked."""
        reason: SaveReason | None = None
        if wishes.stop:
            reason = "stop"
        elif step % self.settings.checkpoint_every == 0 or step == self.settings.branch_step():
            reason = "interval"
        elif wishes.save:
            reason = "asked"
        if reason is not None:
            self._save(step, reason)
        elif wishes.sample:
            self._sample(step)

    def _sample(
        self, step: int, point: Point = "checkpoint", checkpoint: str | None = None
    ) -> None:
        """Record what the weights of this step write; only the main worker does."""
        if self.context.workers.is_main:
            parent = self.parent
            record_samples(
                self.context,
                self.stage,
                step,
                self.model,
                parent.tokenizer,
                parent.end_tokens,
                point=point,
                checkpoint=checkpoint,
            )

    def _is_to_validate(self, step: int) -> bool:
        """Tell whether a step is validated: when asked for, and where the best is to be known."""
        settings = self.settings
        is_judged = settings.keep_best and step % settings.checkpoint_every == 0
        return is_judged or step % settings.validate_every == 0 or step == settings.branch_step()

    def _record(self, report: StepReport) -> None:
        recorder = self.context.recorder
        tokens = self._tokens(report.step)
        mfu = self.speed.mfu(report.tokens_per_second)
        known = {} if mfu is None else {"mfu": mfu}
        recorder.event("metrics", stage=self.stage.name, tokens=tokens, **asdict(report), **known)
        recorder.say(
            f"{self.stage.name} {report.step}/{self.settings.total_steps()} "
            f"loss {report.loss:.4f} lr {report.learning_rate:.2e} "
            f"norm {report.gradient_norm:.2f} {report.tokens_per_second:,.0f} tokens/s"
        )
        recorder.progress(report.step, tokens)

    def _tokens(self, step: int) -> int:
        return self.context.tokens_at(self.stage, step)

    def _validate(self, step: int) -> None:
        found = validate(
            self.network, self.data, step, self.settings.micro_batch_size, self.context.workers
        )
        self.validation = found
        recorder = self.context.recorder
        recorder.event(
            "validation",
            stage=self.stage.name,
            step=step,
            tokens=self._tokens(step),
            loss=found.loss,
            by_source=found.by_source,
        )
        parts = ", ".join(f"{label} {loss:.4f}" for label, loss in found.by_source.items())
        parts = f" ({parts})" if len(found.by_source) > 1 else ""
        recorder.say(f"{self.stage.name} step {step}: validation loss {found.loss:.4f}{parts}")
        if self.report and not math.isfinite(found.loss):  # saved, no rate could mend them
            self._halt(
                f"Validation loss {found.loss} after step {step}: this step has spoiled the "
                "weights, and they are not saved."
            )

    def _details(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint of `step` says of the training that led to it."""
        details: dict[str, Any] = {
            "loss": self.report.loss if self.report else None,
            "settings": asdict(self.settings),
            "num_workers": self.context.workers.num_workers,
            "data": self.data.position(step, self.settings.batch_size),
            "schedule": {
                "text": self.settings.describe_schedule(),
                "total_steps": self.settings.total_steps(),
                "learning_rate": self.optimizer.param_groups[0]["lr"],
            },
        }
        if self.validation and self.validation.step == step:
            details["validation_loss"] = self.validation.loss
            details["validation_by_source"] = self.validation.by_source
        return details

    def _save(self, step: int, reason: SaveReason) -> None:
        """Write a checkpoint to go on from, and samples of it; only the main worker does."""
        context = self.context
        if not context.workers.is_main:
            return
        folder = context.run.checkpoints_folder / checkpoint_name(self.stage.name, step)
        details = {
            **context.provenance(self.stage, step),
            "is_final": False,
            **self._details(step),
        }
        started = time.perf_counter()
        save_checkpoint(folder, self.model, self.tokenizer_folder, details, self.optimizer)
        context.announce_saved(
            self.stage,
            step,
            folder,
            seconds=time.perf_counter() - started,
            reason=reason,
            validation_loss=details.get("validation_loss"),
        )
        context.recorder.update(checkpoint=folder.name, step=step)
        self.tokenizer_folder = folder  # the newest is always kept, whatever happens to its parent
        self._prune(step)
        self._sample(step, checkpoint=folder.name)

    def _prune(self, step: int) -> None:
        prune_checkpoints(
            self.context.run,
            self.stage.name,
            step,
            keep_last=self.settings.keep_last,
            keep_best=self.settings.keep_best,
            keep_step=self.settings.branch_step(),
        )

    def _halt(self, problem: str) -> None:
        """Tell what the last step was trained on, and end the run.

        Raises:
            TrainingError: always; names the step, its worst windows and the checkpoint kept.
        """
        context, report = self.context, self.report
        assert report is not None
        problem += (
            f" Lower the learning rate (now {report.learning_rate:g}) or look at the windows of "
            "this step."
        )
        if context.workers.is_main:
            batch_size = self.settings.batch_size
            windows = windows_of_step(
                unwrapped(self.network),
                self.data,
                self.parent.tokenizer,
                report.step - 1,
                batch_size,
            )
            problem += f" {describe_windows(windows, batch_size)} {context.recorder.kept()}"
            context.recorder.event(
                "halted",
                stage=self.stage.name,
                step=report.step,
                loss=report.loss,
                gradient_norm=report.gradient_norm,
                checkpoint=context.recorder.status.checkpoint,
                windows=windows,
            )
        context.workers.wait()  # a worker that left would have the main one ended in mid-sentence
        raise TrainingError(problem)

    def _finish(self) -> Path:
        """Validate, write the final checkpoint and show samples of it."""
        context, step = self.context, self.settings.total_steps()
        self._validate(step)
        if context.workers.is_main:
            tell_measured(context.recorder, self.stage.name, self.prediction, context.device)
            if warning := warning_of(self.model.state_dict()):
                context.recorder.warn(warning)
            kept = self.optimizer if context.gives_its_moments_on(self.stage) else None
            details = self._details(step)
            folder = context.finish(self.stage, self.model, self.tokenizer_folder, details, kept)
            self._prune(step)
            context.recorder.wishes()  # a save or samples asked for in the last step are these
            self._sample(step, checkpoint=folder.name)
        context.workers.wait()
        return context.final_folder(self.stage)
