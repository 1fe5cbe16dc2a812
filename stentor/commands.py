"""`python -m stentor generate` and `python -m stentor models`: what the tabs do, in a terminal.

Also what the other commands share: a text from standard input, a model that is fetched first.
"""

import argparse
import json
import sys
import unicodedata
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from stentor.engine.decoder import MAX_ALTERNATIVES
from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Snapshot, StopReason, Stream
from stentor.errors import ModelError, PromptError
from stentor.hub import cached_folder, fetch
from stentor.knobs import add_arguments, from_arguments, knob, label, to_json
from stentor.loading import count_parameters
from stentor.models import MODELS, PAIRS, find_model, pair_sampling
from stentor.provenance import versions
from stentor.store import (
    MAX_CHARACTERS,
    OVERFLOW,
    AvailableModel,
    EngineOptions,
    LoadedModel,
    ModelStore,
    PreparedPrompt,
    open_store,
    prepare_prompt,
)
from stentor.token_scores import token_json

SESSION = "command line"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class TokenOptions:
    """What is told of each token besides its own log-probability and rank."""

    alternatives: int = knob(
        0, low=0, high=MAX_ALTERNATIVES, step=1, help="Also tell this many likeliest tokens of each"
    )


def add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `generate` to a parser."""
    add_text_arguments(parser, "prompt", "text to continue")
    add_arguments(parser, SamplingSettings)
    add_arguments(parser, TokenOptions)
    add_arguments(parser, EngineOptions)
    suited = ", ".join(f"{label(k).lower()} {v:g}" for k, v in PAIRS["demo"].sampling.items())
    parser.epilog = f"Settings left out are as the page begins: for the demo pair, {suited}."
    parser.add_argument(
        "--overflow",
        choices=tuple(OVERFLOW),
        default="refuse",
        help="what to do with a prompt that does not fit into the context (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def add_text_arguments(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    """Add a text, which may come from standard input, and the models that read it."""
    demo = PAIRS["demo"]
    parser.add_argument(
        name,
        nargs="?",
        help=f"{help}; standard input where it is left out (less its last line break)",
    )
    parser.add_argument(
        "--model",
        action="append",
        help="a name, run:<id>/<checkpoint> or a folder; may be given several times "
        f"(default {demo.left} and {demo.right})",
    )


def models_named(arguments: argparse.Namespace) -> list[str]:
    """Return the references given with --model, else those of the demo pair."""
    return arguments.model or [PAIRS["demo"].left, PAIRS["demo"].right]


def sampling_settings(arguments: argparse.Namespace) -> SamplingSettings:
    """Return the settings given as flags, the others as the page begins for the models' pair."""
    suited = pair_sampling(models_named(arguments))
    return from_arguments(SamplingSettings, argparse.Namespace(**{**suited, **vars(arguments)}))


def models_at_hand() -> list[str]:
    """Return the names of the known models that can be loaded without a download.

    Raises:
        ModelError: there is none.
    """
    with ModelStore() as store:
        names = [entry.spec.name for entry in store.available() if entry.is_ready]
    known = [name for name in names if name in MODELS]
    if not known:
        raise ModelError("No known model is on this machine. Name one with --model.")
    return known


def run_generate(arguments: argparse.Namespace) -> int:
    """Continue a prompt with each model and print the texts as they come.

    Raises:
        StentorError: an option, a model or the prompt is wrong, or a generation failed.
    """
    settings = sampling_settings(arguments)
    num_alternatives = from_arguments(TokenOptions, arguments).alternatives
    options = from_arguments(EngineOptions, arguments)
    prompt = read_text(arguments.prompt)
    with open_store(options) as store, ExitStack() as streams:
        requests = []
        for reference in models_named(arguments):
            fetch_if_missing(reference)
            loaded = store.load(reference)
            prepared = prepare_prompt(
                loaded, prompt, arguments.overflow, num_new_tokens=settings.max_new_tokens
            )
            requests.append((loaded, prepared))
        # All are submitted before the first is read: they decode at the same time.
        results = []
        for loaded, prepared in requests:
            request = GenerationRequest(
                prepared.token_ids, settings, SESSION, num_alternatives=num_alternatives
            )
            stream = loaded.engine.submit(request)
            streams.callback(stream.cancel)
            results.append((loaded, prepared, stream))
        if arguments.json:
            print(json.dumps(_report(prompt, arguments.overflow, settings, results), indent=2))
        else:
            for result in results:
                _print_stream(prompt, *result)
    return 0


def fetch_if_missing(reference: str) -> None:
    """Download a model that is only on the Hub, with progress on stderr."""
    spec = find_model(reference)
    if spec.hub_id is None or cached_folder(spec) is not None:
        return
    print(f"Fetching {spec.title} from the Hub ({spec.hub_id}).", file=sys.stderr)
    end = "\r" if sys.stderr.isatty() else "\n"

    def report(done_bytes: int, total_bytes: int) -> None:
        done, total = done_bytes / MEGABYTE, total_bytes / MEGABYTE
        print(f"{done:10,.1f} of {total:,.1f} MB", end=end, file=sys.stderr, flush=True)

    fetch([spec], report)
    print(file=sys.stderr)


def read_text(given: str | None) -> str:
    """Return the text given as an argument, else standard input less its last line break.

    Raises:
        PromptError: neither was given.
    """
    if given is not None:
        return given
    if sys.stdin.isatty():
        raise PromptError("Give a text as an argument, or on standard input.")
    # One more than allowed is enough to be refused, however much is piped in.
    return sys.stdin.read(MAX_CHARACTERS + 2).removesuffix("\n")


def _print_stream(
    prompt: str, loaded: LoadedModel, prepared: PreparedPrompt, stream: Stream
) -> None:
    """Print prompt and continuation as it comes, then one line of figures."""
    print(f"{loaded.spec.title} ({loaded.spec.name}, {loaded.checkpoint.revision[:19]})")
    if prepared.num_dropped:
        print(f"The first {prepared.num_dropped:,} tokens of the prompt were left out.")
    print(printable(prompt), end="", flush=True)
    for record in stream:
        print(printable(record.text), end="", flush=True)
    snapshot = _finished(loaded, stream)
    figures = [str(snapshot.stop_reason), f"{snapshot.num_tokens} tokens"]
    if snapshot.seconds_to_first_token is not None:
        figures.append(f"{snapshot.seconds_to_first_token:.2f} s to the first")
    if snapshot.tokens_per_second is not None:
        figures.append(f"{snapshot.tokens_per_second:.1f} tokens/s")
    print(f"\n[{', '.join(figures)}]\n")


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: other control characters are written as \\x1b."""
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) != "Cc"
        else f"\\x{ord(character):02x}"
        for character in text
    )


def _finished(loaded: LoadedModel, stream: Stream) -> Snapshot:
    """Wait for the end of a stream.

    Raises:
        ModelError: it failed.
    """
    stream.wait()
    snapshot = stream.snapshot()
    if snapshot.stop_reason is StopReason.FAILED:
        raise ModelError(f"{loaded.spec.title}: {snapshot.error}")
    return snapshot


def _report(
    prompt: str,
    overflow: str,
    settings: SamplingSettings,
    results: list[tuple[LoadedModel, PreparedPrompt, Stream]],
) -> dict[str, Any]:
    """Return everything that is needed to get the same texts again."""
    return {
        "prompt": prompt,
        "overflow": overflow,
        "settings": to_json(settings),
        "versions": versions(),
        "results": [_result(*result) for result in results],
    }


def _result(loaded: LoadedModel, prepared: PreparedPrompt, stream: Stream) -> dict[str, Any]:
    snapshot = _finished(loaded, stream)
    return {
        **model_json(loaded),
        "num_prompt_tokens": len(prepared.token_ids),
        "num_dropped_tokens": prepared.num_dropped,
        "text": snapshot.text,
        "stop_reason": snapshot.stop_reason,
        "num_tokens": snapshot.num_tokens,
        "seconds_to_first_token": snapshot.seconds_to_first_token,
        "tokens_per_second": snapshot.tokens_per_second,
        "tokens": [token_json(record, loaded.checkpoint.tokenizer) for record in stream.tokens],
    }


def model_json(loaded: LoadedModel) -> dict[str, Any]:
    """Return which model answered, and how it computed."""
    return {
        "model": loaded.spec.name,
        "hub_id": loaded.spec.hub_id,
        "revision": loaded.checkpoint.revision,
        "num_parameters": loaded.checkpoint.num_parameters,
        "precision": loaded.engine.precision,
        "device": loaded.engine.device,
        "num_threads": loaded.engine.num_threads,
    }


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `models` to a parser."""
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run_models(arguments: argparse.Namespace) -> int:
    """Print the known models and checkpoints, and where they are."""
    with ModelStore() as store:
        lines = [_model_line(entry) for entry in store.available()]
    if arguments.json:
        print(json.dumps(lines, indent=2))
        return 0
    width = max(len(line["name"]) for line in lines)
    print(f"{'name':{width}}  {'parameters':>11}  {'weights':>9}  where")
    for line in lines:
        parameters = f"{line['parameters']:,}" if line["parameters"] else "?"
        size = f"{line['num_bytes'] / MEGABYTE:.1f} MB" if line["is_ready"] else "-"
        print(f"{line['name']:{width}}  {parameters:>11}  {size:>9}  {line['where']}")
        print(f"{'':{width}}  {line['note']}")
    return 0


def _model_line(entry: AvailableModel) -> dict[str, Any]:
    spec, problem = entry.spec, None
    parameters = spec.parameters
    if entry.folder is not None:
        try:
            parameters = count_parameters(entry.folder)
        except ModelError as error:
            problem = str(error)
    absent = f"on the Hub: {spec.hub_id}" if spec.hub_id else f"missing: {spec.folder}"
    return {
        "name": spec.name,
        "title": spec.title,
        "note": spec.note,
        "hub_id": spec.hub_id,
        "is_ready": entry.is_ready,
        "parameters": parameters,
        "num_bytes": entry.num_bytes,
        "where": problem or (str(entry.folder) if entry.folder else absent),
    }
