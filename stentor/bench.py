"""How fast this machine is: `python -m stentor bench`, or `python -m stentor.bench`.

A table for people; the last line is the same as JSON, with machine and versions. Every figure is
measured in this run. `--compare` also runs transformers' own `generate`, as the model card does.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from stentor.__main__ import main
from stentor.commands import fetch_if_missing
from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.errors import ModelError, OptionError
from stentor.knobs import check, to_json
from stentor.models import MODELS
from stentor.provenance import machine, versions
from stentor.store import LoadedModel, ModelStore, prepare_prompt

PROMPT = "Photosynthesis is the process by which plants"
WARM_UP_TOKENS = 4
# More than this at once would only measure the waiting room.
MAX_USERS = 64


@dataclass(frozen=True)
class Measurement:
    """One line of the table; `tokens_per_second` is that of all users together."""

    model: str
    revision: str
    num_parameters: int
    engine: str
    precision: str
    num_threads: int
    num_users: int
    load_seconds: float
    seconds_to_first_token: float  # mean over the users
    num_tokens: int
    tokens_per_second: float


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `bench` to a parser."""
    parser.add_argument(
        "--model", action="append", help="may be given several times (default: all at hand)"
    )
    parser.add_argument(
        "--users",
        type=int,
        nargs="+",
        default=[1, 4],
        help="how many generate at the same time (default 1 4)",
    )
    parser.add_argument(
        "--tokens", type=int, default=80, help="new tokens per user (default %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, help="threads per model (default: half of the cores)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="also measure transformers' generate, one user"
    )


def run_bench(arguments: argparse.Namespace) -> int:
    """Measure, and print the table and the JSON line.

    Raises:
        StentorError: an option is wrong, or there is no model to measure.
    """
    settings = check(SamplingSettings(max_new_tokens=arguments.tokens))
    if not all(1 <= users <= MAX_USERS for users in arguments.users):
        raise OptionError(f"Users must be from 1 to {MAX_USERS}; got {arguments.users}.")
    if arguments.threads is not None and arguments.threads < 1:
        raise OptionError(f"Threads must be at least 1; got {arguments.threads}.")
    measurements = []
    print(_row("model", "engine", "users", "threads", "load s", "first s", "tokens", "tokens/s"))
    for reference in arguments.model or _models_at_hand():
        for measurement in _measure(reference, arguments, settings):
            measurements.append(measurement)
            print(_line(measurement), flush=True)
    report = {
        "prompt": PROMPT,
        "settings": to_json(settings),
        "machine": machine(),
        "versions": {**versions(), "transformers": version("transformers")},
        "measurements": [to_json(measurement) for measurement in measurements],
    }
    print(json.dumps(report))
    return 0


def _models_at_hand() -> list[str]:
    with ModelStore() as store:
        names = [entry.spec.name for entry in store.available() if entry.is_ready]
    known = [name for name in names if name in MODELS]
    if not known:
        raise ModelError("No known model is on this machine. Name one with --model.")
    return known


def _measure(
    reference: str, arguments: argparse.Namespace, settings: SamplingSettings
) -> list[Measurement]:
    """Measure one model alone in a store of its own, so that its load is a real one."""
    with ModelStore(num_threads=arguments.threads) as store:
        fetch_if_missing(reference)
        began = time.perf_counter()
        loaded = store.load(reference)
        load_seconds = time.perf_counter() - began
        prompt_ids = prepare_prompt(loaded, PROMPT).token_ids
        _generate(loaded, prompt_ids, SamplingSettings(max_new_tokens=WARM_UP_TOKENS), 1)
        found = []
        for users in arguments.users:
            first, tokens, speed = _generate(loaded, prompt_ids, settings, users)
            threads = loaded.engine.num_threads
            found.append(
                _measurement(loaded, "stentor", threads, users, load_seconds, first, tokens, speed)
            )
    if arguments.compare:
        found.append(_measure_transformers(loaded, prompt_ids, settings))
    return found


def _generate(
    loaded: LoadedModel, prompt_ids: Sequence[int], settings: SamplingSettings, users: int
) -> tuple[float, int, float]:
    """Let `users` generate at once; return mean seconds to the first token, tokens, tokens/s."""
    began = time.perf_counter()
    streams = [
        loaded.engine.submit(GenerationRequest(tuple(prompt_ids), settings, f"user {number}"))
        for number in range(users)
    ]
    for stream in streams:
        stream.wait()
    seconds = time.perf_counter() - began
    snapshots = [stream.snapshot() for stream in streams]
    error = next((snapshot.error for snapshot in snapshots if snapshot.error), None)
    if error:
        raise ModelError(f"{loaded.spec.title}: {error}")
    firsts = [snapshot.seconds_to_first_token or seconds for snapshot in snapshots]
    num_tokens = sum(snapshot.num_tokens for snapshot in snapshots)
    return sum(firsts) / users, num_tokens, num_tokens / seconds


def _measure_transformers(
    loaded: LoadedModel, prompt_ids: Sequence[int], settings: SamplingSettings
) -> Measurement:
    """Measure the model card's own way of generating: fp32, all threads, one user."""
    began = time.perf_counter()
    model = transformers.LlamaForCausalLM.from_pretrained(
        loaded.checkpoint.folder, dtype=torch.float32, use_safetensors=True
    )
    load_seconds = time.perf_counter() - began
    ids = torch.tensor([list(prompt_ids)])
    first, _ = _time_transformers(model, ids, settings, 1)
    seconds, num_tokens = _time_transformers(model, ids, settings, settings.max_new_tokens)
    speed, threads = num_tokens / seconds, torch.get_num_threads()
    return _measurement(loaded, "transformers", threads, 1, load_seconds, first, num_tokens, speed)


def _time_transformers(
    model: "transformers.LlamaForCausalLM",
    ids: torch.Tensor,
    settings: SamplingSettings,
    limit: int,
) -> tuple[float, int]:
    """Return the seconds and the number of new tokens of one call of `generate`."""
    began = time.perf_counter()
    output = model.generate(  # type: ignore[misc] # its own hint of `self` is wrong
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        min_new_tokens=limit,  # the end of a text, drawn by chance, would measure less
        do_sample=True,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )
    seconds = time.perf_counter() - began
    assert isinstance(output, torch.Tensor)
    return seconds, output.shape[1] - ids.shape[1]


def _measurement(
    loaded: LoadedModel,
    engine: str,
    threads: int,
    users: int,
    load_seconds: float,
    first: float,
    tokens: int,
    speed: float,
) -> Measurement:
    return Measurement(
        model=loaded.spec.name,
        revision=loaded.checkpoint.revision,
        num_parameters=loaded.checkpoint.num_parameters,
        engine=engine,
        precision="fp32",
        num_threads=threads,
        num_users=users,
        load_seconds=round(load_seconds, 3),
        seconds_to_first_token=round(first, 4),
        num_tokens=tokens,
        tokens_per_second=round(speed, 2),
    )


def _line(measurement: Measurement) -> str:
    return _row(
        Path(measurement.model).name,
        measurement.engine,
        str(measurement.num_users),
        str(measurement.num_threads),
        f"{measurement.load_seconds:.2f}",
        f"{measurement.seconds_to_first_token:.3f}",
        str(measurement.num_tokens),
        f"{measurement.tokens_per_second:.1f}",
    )


def _row(model: str, engine: str, *figures: str) -> str:
    return f"{model:<24} {engine:<13}" + "".join(f"{figure:>9}" for figure in figures)


if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
