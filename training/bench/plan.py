"""What the bench is asked for, and what it and its children say to each other, as JSON.

Standard library only.
"""

from dataclasses import dataclass

from stentor.knobs import knob

SPEED, MEMORY, DATA, FLAT = "speed", "memory", "data", "flat"
PARTS = (SPEED, MEMORY, DATA, FLAT)
# Names of the models that can be measured; see subjects.py.
DEMO_BIG, STENTOR_30M, STENTOR_BIG = "demo-big", "stentor-30m", "stentor-big"
SHAPES = (DEMO_BIG, STENTOR_30M, STENTOR_BIG)
OURS, TRAINER, DATASETS = "stentor", "transformers.Trainer", "datasets.map"


@dataclass(frozen=True)
class BenchOptions:
    """How long and how much is measured."""

    repeats: int = knob(3, low=1, high=100, step=1, help="Processes for each line, taken in turns")
    steps: int = knob(4, low=1, high=10_000, step=1, help="Optimizer steps measured in each")
    warmup_steps: int = knob(2, low=1, high=1000, step=1, help="Steps before them, not measured")
    batch_size: int | None = knob(
        None, low=1, high=4096, step=1, help="Windows of 512 tokens per step; nothing: by the model"
    )
    micro_batch_size: int | None = knob(
        None, low=1, high=4096, step=1, help="Windows per forward pass; nothing: by the model"
    )
    threads: int | None = knob(
        None, low=1, high=1024, step=1, help="Threads to compute with; nothing: all cores"
    )
    megabytes: float = knob(
        24.0, low=0.5, high=100_000.0, step=1.0, help="Text of the part data, generated"
    )
    gigabytes: float = knob(
        1.0, low=0.001, high=1000.0, step=0.1, help="Text of the part flat, beside a tenth of it"
    )


@dataclass(frozen=True)
class Line:
    """One way of training: a line of the table."""

    loop: str  # OURS or TRAINER
    precision: str  # "fp32" or "bf16"
    is_checkpointed: bool = False  # gradient checkpointing
    is_compiled: bool = False  # torch.compile

    @property
    def title(self) -> str:
        """Return the loop and what is switched on."""
        checkpointed = ", checkpointing" if self.is_checkpointed else ""
        return f"{self.loop}{checkpointed}{', compiled' if self.is_compiled else ''}"


@dataclass(frozen=True)
class TrainJob:
    """Train `warmup_steps + num_steps` steps and time the last `num_steps`."""

    line: Line
    folder: str  # of the model
    windows_file: str  # .npy, int64 (windows, 512), in the order they are trained on
    work_folder: str
    device: str
    batch_size: int
    micro_batch_size: int
    warmup_steps: int
    num_steps: int
    num_threads: int


@dataclass(frozen=True)
class TrainAnswer:
    """What one process measured; `predicted_bytes` is 0 where nothing predicts the peak."""

    seconds: float
    num_tokens: int
    first_loss: float  # mean over the first batch, in nats per token
    peak_bytes: int
    predicted_bytes: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Return the speed of the measured steps."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True)
class CeilingJob:
    """Measure the largest matrix product rate."""

    device: str
    precision: str
    num_threads: int


@dataclass(frozen=True)
class CeilingAnswer:
    """Floating-point operations a second; a multiply-add is two."""

    operations: float


@dataclass(frozen=True)
class DataJob:
    """Turn a file of text into packed windows."""

    text_file: str  # .jsonl with a column `text`
    folder: str  # of the model whose tokenizer is used
    work_folder: str
    num_processes: int  # of datasets.map; ours decides by itself
    num_threads: int


@dataclass(frozen=True)
class DataAnswer:
    """What it took. `seconds` are of everything, `map_seconds` of datasets' two maps alone."""

    seconds: float
    num_tokens: int
    peak_bytes: int  # of the child and its own children, sampled
    map_seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is asked for, checked. Without shapes: what suits the device."""

    options: BenchOptions
    parts: tuple[str, ...]
    shapes: tuple[str, ...]
    num_threads: int
    text: tuple[str, ...] = ()  # files for the part data; none: generated
