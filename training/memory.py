"""The memory of a training process, predicted from the shape before it starts, and its peak.

On a CPU all of a process counts, on a GPU the tensors alone. Knows no run.
"""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
import torch

from stentor.engine.cpu.tile import LANES
from stentor.loading import LlamaShape
from training.fused import CHUNK_ROWS as FUSED_CHUNK_ROWS
from training.kernels import team
from training.network import CHUNK_ROWS, resolve_precision
from training.settings import WINDOW_TOKENS, PretrainSettings

FP32, BF16 = 4, 2
# Machine code, threads, packed copies of matrices and gaps between buffers, which a process
# takes at its first steps. Measured.
STARTING_BYTES = 100 * 2**20


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes at the moment of the peak, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int  # what the backward pass needs, and the buffers of one layer
    logits: int
    process: int  # what the process held before; 0 on a GPU

    @property
    def total(self) -> int:
        """Return the predicted peak."""
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class _Rows:
    """Bytes per token of a micro batch."""

    boundary: int  # the input of a layer
    kept: int  # by a layer for its backward pass, with its input
    passing: int  # while one layer is computed backward


def predict_memory(
    shape: LlamaShape, settings: PretrainSettings, device: torch.device, num_workers: int = 1
) -> MemoryPrediction:
    """Return the peak of one worker's process; called before the model is loaded.

    The peak is where the backward pass begins, with what all layers keep, or where it ends, with
    all gradients.
    """
    precision = resolve_precision(settings.precision, device)
    is_fused = _is_fused(shape, device)
    rows = _fused_rows(shape) if is_fused else _plain_rows(shape, precision)
    weights = FP32 * num_parameters(shape)
    embedding = FP32 * shape.vocab_size * shape.hidden_size
    own_windows = -(-settings.batch_size // num_workers)
    num_tokens = min(settings.micro_batch_size, own_windows) * WINDOW_TOKENS
    kept = shape.num_layers * (rows.boundary if settings.gradient_checkpointing else rows.kept)
    held = 0 if own_windows > settings.micro_batch_size else weights - embedding
    at_start = num_tokens * (kept + (rows.kept if settings.gradient_checkpointing else 0)) - held
    at_end = num_tokens * rows.kept + embedding
    is_copied = precision == "bf16" and not is_fused
    narrow = BF16 * (weights // FP32) if is_copied else 0
    return MemoryPrediction(
        # DDP holds gradients once more, in the buckets that it sends.
        weights=weights + narrow,
        gradients=weights * (2 if num_workers > 1 else 1),
        optimizer=moment_bytes(shape, settings.optimizer),
        activations=max(at_start, at_end, 0) + num_tokens * rows.passing,
        logits=_logits(shape, device, precision, num_tokens, is_fused),
        process=_present(device),
    )


def num_parameters(shape: LlamaShape) -> int:
    """Return the number of weights; a tied output matrix is the embedding."""
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    matrices = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
    layers = shape.num_layers * (matrices + 2 * shape.hidden_size)
    embeddings = (1 if shape.is_tied else 2) * shape.vocab_size * shape.hidden_size
    return layers + embeddings + shape.hidden_size


def moment_bytes(shape: LlamaShape, optimizer: str) -> int:
    """Return the bytes that an optimizer keeps: two moments a weight; Muon of a matrix one."""
    num_weights = num_parameters(shape)
    if optimizer == "adamw":
        return 2 * FP32 * num_weights
    num_tables = 1 if shape.is_tied else 2
    gains = (2 * shape.num_layers + 1) * shape.hidden_size
    return FP32 * (num_weights + num_tables * shape.vocab_size * shape.hidden_size + gains)


def _is_fused(shape: LlamaShape, device: torch.device) -> bool:
    """Tell what TrainingNetwork.uses_kernels will say."""
    return device.type == "cpu" and shape.head_dim % LANES == 0 and team.is_available()


def _fused_rows(shape: LlamaShape) -> _Rows:
    """Count training/fused.py: `_Kept` and the buffers of `_backward_mlp` and `_attention`."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    kept = 2 * hidden + 2 * queries + 2 * keys + 2 * intermediate + shape.num_heads + 2
    passing = 6 * hidden + 2 * queries + 2 * keys + 3 * intermediate
    return _Rows(FP32 * hidden, FP32 * kept, FP32 * passing)


def _plain_rows(shape: LlamaShape, precision: str) -> _Rows:
    """Count what autograd keeps of training/plain.py; the residual stream is fp32."""
    hidden, intermediate = shape.hidden_size, shape.intermediate_size
    queries = shape.num_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    size = BF16 if precision == "bf16" else FP32
    stream = FP32 * (2 * hidden + shape.num_heads + 2)
    # Normalised inputs of two products, q k v and what attention returns; gate, its SiLU, up and
    # their product.
    products = size * (2 * hidden + 2 * queries + 2 * keys + 4 * intermediate)
    passing = FP32 * 4 * hidden + size * (2 * queries + 2 * keys + 3 * intermediate)
    return _Rows(FP32 * hidden, stream + products, passing)


def _logits(
    shape: LlamaShape, device: torch.device, precision: str, num_tokens: int, is_fused: bool
) -> int:
    """Return the bytes of a chunk of logits."""
    if is_fused:
        return FP32 * min(FUSED_CHUNK_ROWS, num_tokens) * shape.vocab_size
    num_rows = min(CHUNK_ROWS.get(device.type, CHUNK_ROWS["cpu"]), num_tokens)
    # In the precision of the products: logits and gradient; in fp32: logits, two steps to that.
    size = BF16 if precision == "bf16" else FP32
    return (2 * size + 3 * FP32) * num_rows * shape.vocab_size


def _present(device: torch.device) -> int:
    if device.type == "cuda":
        return 0
    _give_back_freed()
    return int(psutil.Process().memory_info().rss) + STARTING_BYTES


def _give_back_freed() -> None:
    """Let the C library return what the stage before has freed; it would be counted twice."""
    gc.collect()  # a network and its gradients hold each other
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # a C library other than GNU's keeps it
            ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Begin to count the peak from here, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # not Linux, or a container that forbids it: the peak is a bit higher
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory(device: torch.device) -> int:
    """Return the most bytes held since reset_peak_memory: of the process, or of GPU tensors."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) * (1 if sys.platform == "darwin" else 1024)
