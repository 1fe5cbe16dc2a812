"""People who press the button at the same moment, on one model or on several at once."""

import time
from collections.abc import Sequence
from dataclasses import replace

from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Stream
from stentor.errors import ModelError
from stentor.peers.protocol import MAX_RUNS, MEASURE_SECONDS, Run

Prompts = Sequence[tuple[int, ...]]


def press(rooms: Sequence[tuple[Engine, Prompts]], settings: SamplingSettings) -> tuple[Run, ...]:
    """Let a user for each prompt ask every engine at once; return one run for each engine.

    Users differ in prompt and seed; all rooms have the same number of users.

    Raises:
        ModelError: a generation failed.
        BusyError: the engine holds no more requests.
    """
    began = time.perf_counter()
    asked: list[list[tuple[float, Stream]]] = [[] for _ in rooms]
    for user, prompts in enumerate(zip(*(prompts for _, prompts in rooms), strict=True)):
        own = replace(settings, seed=user)
        for (engine, _), streams, prompt in zip(rooms, asked, prompts, strict=True):
            request = GenerationRequest(prompt, own, f"user {user}")
            streams.append((time.perf_counter() - began, engine.submit(request)))
    return tuple(_finish(streams) for streams in asked)


def _finish(streams: Sequence[tuple[float, Stream]]) -> Run:
    """Wait for all; seconds count from when the first user pressed the button."""
    first, last, num_tokens = [], [], 0
    for offset, stream in streams:
        stream.wait()
        records = stream.tokens
        error = stream.snapshot().error
        if error is not None or not records:
            raise ModelError(error or "A generation ended without a token.")
        first.append(offset + records[0].seconds)
        last.append(offset + records[-1].seconds)
        num_tokens += len(records)
    return Run(tuple(first), tuple(last), num_tokens)


def press_repeatedly(
    rooms: Sequence[tuple[Engine, Prompts]], settings: SamplingSettings
) -> list[tuple[Run, ...]]:
    """Press again until MEASURE_SECONDS were measured, at most MAX_RUNS times.

    The rule of peers.protocol.repeated, for several engines at once.
    """
    pressed: list[tuple[Run, ...]] = []
    while len(pressed) < MAX_RUNS and sum(map(seconds_of, pressed)) < MEASURE_SECONDS:
        pressed.append(press(rooms, settings))
    return pressed


def seconds_of(runs: Sequence[Run]) -> float:
    """Return the seconds until everybody in all rooms had everything."""
    return max(run.seconds for run in runs)


def merged(runs: Sequence[Run]) -> Run:
    """Return the users of all rooms as one run."""
    return Run(
        tuple(seconds for run in runs for seconds in run.first_seconds),
        tuple(seconds for run in runs for seconds in run.last_seconds),
        sum(run.num_tokens for run in runs),
    )
