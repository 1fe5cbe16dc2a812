"""Stage `pretrain`: text to windows, windows to steps, steps to checkpoints."""

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from stentor.loading import Checkpoint, open_checkpoint_folder
from training.checkpoint import (
    checkpoint_name,
    end_token_of,
    load_model,
    newest_sound_checkpoint,
    prune_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from training.data import PackedWindows, prepare_windows
from training.loop import StepReport, train_steps, validation_loss
from training.optim import make_optimizer
from training.recipe import Stage
from training.settings import PretrainSettings
from training.sources import read_documents
from training.stages.context import StageContext

SAMPLE_PROMPT = "One morning the"
SAMPLE_TOKENS = 40


def pretrain(stage: Stage, context: StageContext, previous: Path | None) -> Path | None:
    """Train from the newest sound checkpoint of this stage, else from `previous`."""
    settings = stage.settings
    assert isinstance(settings, PretrainSettings)
    assert previous is not None
    resumed, problems = newest_sound_checkpoint(context.run, stage.name)
    for problem in problems:
        context.recorder.warn(problem)
    first_step = resumed.step if resumed else 0
    context.started(stage, first_step)
    parent = open_checkpoint_folder(resumed.folder if resumed else previous)
    windows = _windows(stage, settings, context, parent)
    model = load_model(parent)
    torch.nn.Module.to(model, context.device)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable()
    optimizer = make_optimizer(model, settings.learning_rate, settings.weight_decay)
    if resumed:
        restore_optimizer(resumed.folder, model, optimizer)
        message = f"Resumed from {resumed.folder.name}."
        context.recorder.event("resumed", stage=stage.name, step=first_step, message=message)
        context.recorder.say(message)
    # The tokenizer comes from the stage's input, which stays; `parent` may be pruned meanwhile.
    return _Pretraining(stage, settings, context, parent, previous, windows, model, optimizer).run(
        first_step
    )


def _windows(
    stage: Stage, settings: PretrainSettings, context: StageContext, parent: Checkpoint
) -> PackedWindows:
    """Return the stage's windows and warn when it goes through them more than once."""
    seed = context.seed_of(stage)
    windows = prepare_windows(
        read_documents(settings.sources, seed),
        parent.tokenizer,
        end_token_of(parent),
        settings,
        context.run.data_folder / stage.name,
        seed,
    )
    epochs = settings.total_steps() * settings.batch_size / len(windows.training)
    held_out = {
        "documents": "from documents that no stage trains on",
        "windows": "the last of this stage's text, too short to hold whole documents out",
    }
    context.recorder.say(
        f"{len(windows.training):,} training and {len(windows.held_out)} held-out windows "
        f"({held_out[windows.held_out_by]}); {epochs:.2f} epochs"
    )
    if epochs > 1.001:
        context.recorder.warn(
            f"Stage {stage.name} reads its text {epochs:.1f} times; more text would be better."
        )
    return windows


class _Pretraining:
    """The loop of one stage around its model: validate, save, record, stop."""

    def __init__(
        self,
        stage: Stage,
        settings: PretrainSettings,
        context: StageContext,
        parent: Checkpoint,
        tokenizer_folder: Path,
        windows: PackedWindows,
        model: LlamaForCausalLM,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.stage = stage
        self.settings = settings
        self.context = context
        self.parent = parent
        self.tokenizer_folder = tokenizer_folder
        self.windows = windows
        self.model = model
        self.optimizer = optimizer
        self.tokens_before = context.tokens_before(stage)
        self.validation_loss: float | None = None

    def run(self, first_step: int) -> Path | None:
        """Train to the end of the stage; None when a stop was asked for and the state is saved."""
        recorder = self.context.recorder
        if first_step == 0:
            self._validate(0)
        steps = train_steps(
            self.model,
            self.optimizer,
            lambda step: self.windows.batch_of_step(step, self.settings.batch_size),
            self.settings,
            first_step,
        )
        total_steps = self.settings.total_steps()
        loss = None
        for report in steps:
            loss = report.loss
            self._record(report)
            if not report.is_finite:
                continue  # the loop raises now; nothing of this step may be saved
            is_last = report.step == total_steps
            if is_last or report.step % self.settings.validate_every == 0:
                self._validate(report.step)
            if is_last:
                break
            if recorder.stop_requested():
                self._save(report.step)
                recorder.say(f"Stopped at step {report.step} of {total_steps}.")
                return None
            if report.step % self.settings.checkpoint_every == 0:
                self._save(report.step)
        return self._finish(loss)

    def _record(self, report: StepReport) -> None:
        tokens = self.tokens_before + report.step * self.settings.tokens_per_step()
        recorder = self.context.recorder
        recorder.event("metrics", stage=self.stage.name, tokens=tokens, **asdict(report))
        recorder.say(
            f"{self.stage.name} {report.step}/{self.settings.total_steps()} "
            f"loss {report.loss:.4f} lr {report.learning_rate:.2e} "
            f"norm {report.gradient_norm:.2f} {report.tokens_per_second:,.0f} tokens/s"
        )
        recorder.progress(report.step)

    def _validate(self, step: int) -> None:
        batches = self.windows.validation_batches(self.settings.micro_batch_size)
        self.validation_loss = validation_loss(self.model, batches)
        tokens = self.tokens_before + step * self.settings.tokens_per_step()
        recorder = self.context.recorder
        recorder.event(
            "validation",
            stage=self.stage.name,
            step=step,
            tokens=tokens,
            loss=self.validation_loss,
        )
        recorder.say(f"{self.stage.name} step {step}: validation loss {self.validation_loss:.4f}")

    def _save(self, step: int) -> None:
        context = self.context
        folder = context.run.checkpoints_folder / checkpoint_name(self.stage.name, step)
        details = {**context.provenance(self.stage, step), "is_final": False}
        save_checkpoint(folder, self.model, self.tokenizer_folder, details, self.optimizer)
        prune_checkpoints(context.run, self.stage.name)
        context.recorder.event(
            "checkpoint",
            stage=self.stage.name,
            step=step,
            tokens=details["tokens"],
            name=folder.name,
        )
        context.recorder.update(checkpoint=folder.name, step=step)

    def _finish(self, loss: float | None) -> Path:
        text = sample_text(self.model, self.parent, self.context.recipe.seed)
        self.context.recorder.event(
            "sample",
            stage=self.stage.name,
            step=self.settings.total_steps(),
            prompt=SAMPLE_PROMPT,
            text=text,
        )
        details = {"loss": loss, "validation_loss": self.validation_loss}
        folder = self.context.finish(self.stage, self.model, self.tokenizer_folder, details)
        prune_checkpoints(self.context.run, self.stage.name)
        return folder


def sample_text(model: LlamaForCausalLM, parent: Checkpoint, seed: int) -> str:
    """Return a short continuation of SAMPLE_PROMPT, sampled with its own random state."""
    ids = parent.tokenizer.encode(SAMPLE_PROMPT, add_special_tokens=False).ids
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.train(False)  # in training mode, activation checkpointing would drop the cache
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        output = model.generate(  # type: ignore[misc]
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=SAMPLE_TOKENS,
            do_sample=True,
            temperature=0.5,
            top_p=0.9,
            pad_token_id=end_token_of(parent),
        )
    model.train(was_training)
    text: str = parent.tokenizer.decode(output[0, len(ids) :].tolist())
    return text
