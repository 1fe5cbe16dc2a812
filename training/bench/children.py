"""Runs one measurement in a child process of its own. Standard library only.

A child reads a job from standard input and writes its answer as the last line of its output.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from stentor.errors import INTERRUPTED
from stentor.knobs import DataclassInstance, from_json, to_json

TIMEOUT_SECONDS = 3600
PROJECT = Path(__file__).resolve().parent.parent.parent
Answer = TypeVar("Answer", bound=DataclassInstance)


class ChildError(Exception):
    """One measurement failed; the message is one line for the report."""


def measure_in_child(
    module: str, job: DataclassInstance, answer_class: type[Answer], work_folder: Path
) -> Answer:
    """Return what `module.measure(job)` answers in a process of its own.

    The child's threads are counted before any library is loaded; it sees one GPU and no network,
    and its working folder and caches are `work_folder`.

    Raises:
        ChildError: the child failed, was ended or gave no answer in an hour.
        KeyboardInterrupt: it was interrupted, as we are.
    """
    values = to_json(job)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work_folder / "hf-home"),
        "TMPDIR": str(work_folder),
        "OMP_NUM_THREADS": str(values["num_threads"]),
        "CUDA_VISIBLE_DEVICES": gpu,  # one: the Trainer would spread over all of them by itself
        "RAYON_NUM_THREADS": str(values["num_threads"]),
    }
    try:
        finished = subprocess.run(
            [sys.executable, "-m", "training.bench.child", module],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd=work_folder,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"gave no figures within {TIMEOUT_SECONDS} seconds") from error
    if finished.returncode in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if finished.returncode != 0:
        raise ChildError(_why(finished.returncode, finished.stderr))
    return from_json(answer_class, json.loads(finished.stdout.strip().splitlines()[-1]))


def _why(code: int, said: str) -> str:
    """Return the end of a child in one line."""
    if code == -signal.SIGKILL:
        return "was killed, most likely for want of memory"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = said.strip().splitlines()
    return f"failed with exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}"
