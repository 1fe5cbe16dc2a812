"""The steps of a pre-training stage: train, validate, save, record, stop, halt."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from stentor.loading import Checkpoint
from training.checkpoint import checkpoint_name, end_token_of, save_checkpoint
from training.halt import describe_windows, windows_of_step
from training.loop import StepReport, train_steps
from training.memory import MemoryPrediction, reset_peak_memory
from training.memory_check import tell_measured
from training.recipe import Stage
from training.retention import prune_checkpoints
from training.sample import SAMPLE_PROMPT, sample_text
from training.settings import PretrainSettings
from training.stage_data import StageData
from training.stages.context import StageContext
from training.validation import Validation, validate
from training.workers import unwrapped


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
            is_told_to_stop = workers.any(self.context.recorder.stop_requested())
            if is_told_to_stop or report.step % settings.checkpoint_every == 0:
                self._save(report.step)
            if is_told_to_stop:
                return report.step
        return total_steps

    def _is_to_validate(self, step: int) -> bool:
        """Tell whether a step is validated: when asked for, and where the best is to be known."""
        is_judged = self.settings.keep_best and step % self.settings.checkpoint_every == 0
        return is_judged or step % self.settings.validate_every == 0

    def _record(self, report: StepReport) -> None:
        recorder = self.context.recorder
        tokens = self._tokens(report.step)
        recorder.event("metrics", stage=self.stage.name, tokens=tokens, **asdict(report))
        recorder.say(
            f"{self.stage.name} {report.step}/{self.settings.total_steps()} "
            f"loss {report.loss:.4f} lr {report.learning_rate:.2e} "
            f"norm {report.gradient_norm:.2f} {report.tokens_per_second:,.0f} tokens/s"
        )
        recorder.progress(report.step)

    def _tokens(self, step: int) -> int:
        """Return the training tokens of the run up to a step of this stage."""
        return self.context.tokens_before(self.stage) + step * self.settings.tokens_per_step()

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

    def _save(self, step: int) -> None:
        """Write a checkpoint to go on from; only the main worker does."""
        context = self.context
        if not context.workers.is_main:
            return
        folder = context.run.checkpoints_folder / checkpoint_name(self.stage.name, step)
        details = {
            **context.provenance(self.stage, step),
            "is_final": False,
            **self._details(step),
        }
        save_checkpoint(folder, self.model, self.tokenizer_folder, details, self.optimizer)
        context.recorder.event(
            "checkpoint",
            stage=self.stage.name,
            step=step,
            tokens=details["tokens"],
            name=folder.name,
            validation_loss=details.get("validation_loss"),
        )
        context.recorder.update(checkpoint=folder.name, step=step)
        self.tokenizer_folder = folder  # the newest is always kept, whatever happens to its parent
        self._prune(step)

    def _prune(self, step: int) -> None:
        prune_checkpoints(
            self.context.run,
            self.stage.name,
            step,
            keep_last=self.settings.keep_last,
            keep_best=self.settings.keep_best,
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
        """Validate, show a sample and write the final checkpoint."""
        context, step = self.context, self.settings.total_steps()
        self._validate(step)
        if context.workers.is_main:
            end_token = end_token_of(self.parent)
            text = sample_text(self.model, self.parent.tokenizer, end_token, context.recipe.seed)
            context.recorder.event(
                "sample", stage=self.stage.name, step=step, prompt=SAMPLE_PROMPT, text=text
            )
            tell_measured(context.recorder, self.stage.name, self.prediction, context.device)
            kept = self.optimizer if context.gives_its_moments_on(self.stage) else None
            details = self._details(step)
            context.finish(self.stage, self.model, self.tokenizer_folder, details, kept)
            self._prune(step)
        context.workers.wait()
        return context.final_folder(self.stage)
