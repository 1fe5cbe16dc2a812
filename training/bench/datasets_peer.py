"""datasets.map as people prepare text: tokenise in batches, then group into windows of 512."""

import time
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from stentor.model_folder import TOKENIZER_FILE
from training.bench.memory_watch import MemoryWatch
from training.bench.plan import DataAnswer, DataJob
from training.settings import WINDOW_TOKENS

JOB = DataJob
END_TOKEN = 0


def measure(job: DataJob) -> DataAnswer:
    """Load, tokenise and group; times the two maps alone as well.

    As in transformers' run_clm.py, less what it does for nothing here: no attention mask and no
    copy of the labels.
    """
    datasets.disable_progress_bars()
    file = str(Path(job.folder) / TOKENIZER_FILE)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file)  # type: ignore[no-untyped-call]
    num_processes = job.num_processes if job.num_processes > 1 else None
    with MemoryWatch() as memory:
        began = time.perf_counter()
        text = datasets.load_dataset(
            "json", data_files=job.text_file, split="train", cache_dir=job.work_folder
        )
        loaded = time.perf_counter()
        tokens = text.map(
            partial(tokenize, tokenizer),
            batched=True,
            num_proc=num_processes,
            remove_columns=["text"],
        )
        windows = tokens.map(group, batched=True, num_proc=num_processes)
        ended = time.perf_counter()
    return DataAnswer(
        seconds=ended - began,
        map_seconds=ended - loaded,
        num_tokens=len(windows) * WINDOW_TOKENS,
        peak_bytes=memory.peak_bytes,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, rows: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of each document, with an end."""
    encoded = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False)
    return {"input_ids": [[*ids, END_TOKEN] for ids in encoded["input_ids"]]}


def group(rows: dict[str, Any]) -> dict[str, Any]:
    """Return whole windows of one batch of documents; the rest is dropped, as there."""
    tokens = list(chain.from_iterable(rows["input_ids"]))
    end = len(tokens) // WINDOW_TOKENS * WINDOW_TOKENS
    return {"input_ids": [tokens[at : at + WINDOW_TOKENS] for at in range(0, end, WINDOW_TOKENS)]}
