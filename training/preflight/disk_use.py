"""The disk that a run takes: predicted from shapes and settings, or from sizes that were measured.

A checkpoint to go on from holds the weights and the optimizer's moments in fp32, a stage's last one
the weights alone, unless the next stage goes on with the moments. Knows no disk.
"""

from dataclasses import dataclass
from pathlib import Path

from stentor.loading import LlamaShape, tensor_shapes_of
from training.memory import FP32, moment_bytes, num_parameters
from training.settings import PretrainSettings

# A line of safetensors' header: a name, a type, a shape and two offsets. Measured.
HEADER_BYTES = 120
MOMENT_TENSORS = 3  # of each parameter, at most: two moments and the step's number
RANDOM_BYTES = 16_000  # states of the random generators. Measured
JSON_BYTES = 8_000  # config, generation config and trainer.json. Measured
# A step's event, its line in the log, and their share of rarer ones. Measured.
STEP_BYTES = 500


@dataclass(frozen=True)
class CheckpointSizes:
    """Bytes of a checkpoint that training can go on from, and of the last one of a stage."""

    to_resume: int
    final: int


@dataclass(frozen=True)
class StageDisk:
    """Bytes while the stage is at its fullest, and what is left of it."""

    peak: int
    left: int


def predict_checkpoint(
    shape: LlamaShape, tokenizer_bytes: int, optimizer: str, *, keeps_moments: bool
) -> CheckpointSizes:
    """Return the sizes; `keeps_moments`: the next stage goes on with them."""
    num_tensors = len(tensor_shapes_of(shape))
    weights = FP32 * num_parameters(shape)
    plain = weights + HEADER_BYTES * num_tensors + tokenizer_bytes + JSON_BYTES
    headers = HEADER_BYTES * MOMENT_TENSORS * num_tensors
    moments = moment_bytes(shape, optimizer) + headers + RANDOM_BYTES
    return CheckpointSizes(plain + moments, plain + moments if keeps_moments else plain)


def stage_disk(settings: PretrainSettings, sizes: CheckpointSizes, data_bytes: int) -> StageDisk:
    """Return the disk of a training stage. Follows training/retention.py.

    The checkpoint of the lowest loss takes room of its own while the stage goes on; in the end it
    most often is the last one.
    """
    branches = settings.branch_step() < settings.total_steps()  # then one more is kept
    num_written = (settings.total_steps() - 1) // settings.checkpoint_every  # before the last
    num_written += branches and settings.branch_step() % settings.checkpoint_every > 0
    num_kept = settings.keep_last + settings.keep_best + branches
    writing_one = min(num_written, num_kept + 1) * sizes.to_resume
    writing_last = min(num_written, num_kept) * sizes.to_resume + sizes.final
    beside = data_bytes + STEP_BYTES * settings.total_steps()
    left = min(num_written, settings.keep_last - 1 + branches) * sizes.to_resume + sizes.final
    return StageDisk(max(writing_one, writing_last) + beside, left + beside)


def run_disk(stages: list[StageDisk]) -> StageDisk:
    """Return the disk of stages one after the other: each is added to what was left before it."""
    peak = left = 0
    for stage in stages:
        peak = max(peak, left + stage.peak)
        left += stage.left
    return StageDisk(peak, left)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
