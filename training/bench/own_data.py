"""Our preparation of text in a child process: files to packed, memory-mapped windows."""

import time
from pathlib import Path

import torch

from stentor.loading import open_checkpoint_folder
from training.bench.memory_watch import MemoryWatch
from training.bench.plan import DataAnswer, DataJob
from training.checkpoint import end_token_of
from training.data import prepare_stage_data
from training.settings import WINDOW_TOKENS, PretrainSettings, Source

JOB = DataJob


def measure(job: DataJob) -> DataAnswer:
    """Prepare the whole file, as a stage does that needs more than it holds."""
    torch.set_num_threads(job.num_threads)
    checkpoint = open_checkpoint_folder(Path(job.folder))
    file = Path(job.text_file)
    source = Source(kind="files", paths=(job.text_file,))
    # No token is shorter than a byte, so the stage wants more than the file has, and reads it all.
    settings = PretrainSettings(
        sources=(source,),
        budget="tokens",
        num_tokens=file.stat().st_size,
        max_epochs=1e6,
    )
    with MemoryWatch() as memory:
        began = time.perf_counter()
        data = prepare_stage_data(
            (source,),
            checkpoint.tokenizer,
            end_token_of(checkpoint),
            settings,
            Path(job.work_folder) / "windows",
            0,
            lambda line: None,
        )
        seconds = time.perf_counter() - began
    num_windows = data.num_training_windows + sum(len(part.windows) for part in data.held_out)
    return DataAnswer(
        seconds=seconds,
        num_tokens=num_windows * WINDOW_TOKENS,
        peak_bytes=memory.peak_bytes,
    )
