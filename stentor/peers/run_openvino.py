"""OpenVINO GenAI with continuous batching: `python -m stentor.peers.run_openvino < job.json`.

The checkpoint is converted by optimum-intel with int8 weights, in a process of its own so that no
PyTorch stands beside the engine when it is measured.
"""

import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from stentor.peers.protocol import (
    DRAWINGS,
    SAMPLED,
    Answer,
    Job,
    PeerError,
    Run,
    Series,
    repeated,
    serve,
)

CACHE_GIGABYTES = 2
BATCH_TOKENS = 512
MAX_SEQUENCES = 256
WARM_UP_TOKENS = 8


def measure(job: Job) -> Answer:
    """Convert once, then measure every number of users."""
    folder = Path(job.work_folder) / "openvino"
    _convert(job.folder, folder)
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = CACHE_GIGABYTES
    scheduler.max_num_batched_tokens = BATCH_TOKENS
    scheduler.max_num_seqs = MAX_SEQUENCES
    began = time.perf_counter()
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder), scheduler, "CPU", {"INFERENCE_NUM_THREADS": job.num_threads}
    )
    load_seconds = time.perf_counter() - began
    _run(pipeline, job, max(job.users), min(WARM_UP_TOKENS, job.num_tokens), SAMPLED)
    series = tuple(
        Series(
            engine="OpenVINO GenAI",
            precision="int8",
            drawing=drawing,
            num_users=num_users,
            num_threads=job.num_threads,
            load_seconds=load_seconds,
            runs=repeated(partial(_run, pipeline, job, num_users, job.num_tokens, drawing)),
        )
        for num_users in job.users
        for drawing in DRAWINGS
    )
    return Answer(version("openvino-genai"), (), series)


def _convert(source: str, target: Path) -> None:
    """Write the model in OpenVINO's format, weights in int8 with one scale per output."""
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    options = ["--task", "text-generation-with-past", "--weight-format", "int8"]
    finished = subprocess.run(
        [*command, "--model", source, *options, str(target)],
        stdout=sys.stderr,
        stderr=subprocess.PIPE,
        text=True,
    )
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or ["no reason given"]
        raise PeerError(f"optimum-intel did not convert the model: {lines[-1]}")


def _run(pipeline: Any, job: Job, num_users: int, num_tokens: int, drawing: str) -> Run:  # noqa: ANN401
    """Add all requests, then step until none is left."""
    began = time.perf_counter()
    handles = [
        pipeline.add_request(
            user,
            openvino.Tensor(np.array([job.prompts[user]], dtype=np.int64)),
            _settings(job, user, num_tokens, drawing),
        )
        for user in range(num_users)
    ]
    first, last, received = ({user: 0.0 for user in range(num_users)} for _ in range(3))
    while pipeline.has_non_finished_requests():
        pipeline.step()
        now = time.perf_counter() - began
        for user, handle in enumerate(handles):
            if handle.can_read():
                received[user] += sum(
                    len(output.generated_ids) for output in handle.read().values()
                )
                first[user], last[user] = first[user] or now, now
    return Run(tuple(first.values()), tuple(last.values()), int(sum(received.values())))


def _settings(job: Job, seed: int, num_tokens: int, drawing: str) -> Any:  # noqa: ANN401
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = num_tokens
    settings.ignore_eos = True
    settings.do_sample = drawing == SAMPLED
    if not settings.do_sample:
        return settings
    settings.temperature = job.temperature
    settings.top_p = job.top_p
    settings.rng_seed = seed
    return settings


if __name__ == "__main__":
    sys.exit(serve(measure))
