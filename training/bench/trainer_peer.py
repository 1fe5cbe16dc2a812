"""transformers.Trainer as people run it, with the card's AdamW, cosine, warm-up and clipping.

Its fastest stock choices are left on (fused AdamW, no logging, no saving, no evaluation); it tells
nobody and writes below the job's folder only.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.bench.clock import StepClock
from training.bench.plan import TrainAnswer, TrainJob
from training.memory import peak_memory, reset_peak_memory
from training.recipes.card import card
from training.settings import PretrainSettings

JOB = TrainJob


class PackedWindows(Dataset[torch.Tensor]):
    """The windows of the job, in order."""

    def __init__(self, file: str) -> None:
        self._windows = torch.from_numpy(np.load(file))

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._windows[index]


def collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stack rows; windows are full, so there is no padding and no mask."""
    windows = torch.stack(rows)
    return {"input_ids": windows, "labels": windows}


class TimedCallback(TrainerCallback):
    """Tells the clock of every optimizer step."""

    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Note the step."""
        self._clock.step_ended(state.global_step)


class LossTrainer(Trainer):
    """The stock Trainer; keeps what the first optimizer step says of its loss."""

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - as the Trainer takes them
        super().__init__(**values)
        self.first_losses: list[torch.Tensor] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - its own
        """Train on one micro batch; the Trainer has divided its loss by the micro batches."""
        loss = super().training_step(*args, **kwargs)
        if self.state.global_step == 0:
            self.first_losses.append(loss)
        return loss


def measure(job: TrainJob) -> TrainAnswer:
    """Train with the Trainer and time its steps."""
    torch.set_num_threads(job.num_threads)
    model = LlamaForCausalLM.from_pretrained(job.folder, dtype=torch.float32)
    clock = StepClock(job.device, job.warmup_steps, job.num_steps)
    trainer = LossTrainer(
        model=model,
        args=training_arguments(job),
        train_dataset=PackedWindows(job.windows_file),
        data_collator=collate,
        callbacks=[TimedCallback(clock)],
    )
    device = torch.device(job.device)
    reset_peak_memory(device)
    trainer.train()
    return TrainAnswer(
        seconds=clock.seconds,
        num_tokens=job.num_steps * job.batch_size * int(np.load(job.windows_file).shape[1]),
        first_loss=float(torch.stack(trainer.first_losses).sum()),
        peak_bytes=peak_memory(device),
    )


def training_arguments(job: TrainJob) -> TrainingArguments:
    """Return the card's settings for the Trainer; what the card does not name is its default."""
    settings = card().stages[1].settings
    assert isinstance(settings, PretrainSettings)
    return TrainingArguments(
        output_dir=str(Path(job.work_folder) / "trainer"),
        max_steps=job.warmup_steps + job.num_steps,
        per_device_train_batch_size=job.micro_batch_size,
        gradient_accumulation_steps=job.batch_size // job.micro_batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_fraction,  # below 1: a share of all steps
        max_grad_norm=settings.clip_norm,
        weight_decay=settings.weight_decay,
        activation_checkpointing=job.line.is_checkpointed,
        torch_compile=job.line.is_compiled,
        bf16=job.line.precision == "bf16",
        use_cpu=job.device == "cpu",
        train_sampling_strategy="sequential",  # so that the first batch is the same for all
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
