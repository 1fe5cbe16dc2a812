"""`python -m stentor quality`: what a precision costs, against fp32 on the same held-out text.

    python -m stentor quality --text held-out.parquet

Every token is predicted by both, in windows of the context length (see token_scores.py; a window
never goes on into the next document), until --max-tokens are. Prints a table and ends with one line
of JSON. Text that a model was trained on says less: the file should be held out.
"""

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.commands import SESSION, fetch_if_missing, model_json, models_at_hand
from stentor.engine.precision import resolve
from stentor.errors import DataError, OptionError
from stentor.held_out import READERS, file_hash, read_documents
from stentor.knobs import add_arguments, from_arguments, knob, to_json
from stentor.provenance import machine, versions
from stentor.store import EngineOptions, LoadedModel, encode, open_store
from stentor.token_scores import num_bytes_after_first, score_tokens, total_bits

REFERENCE = "fp32"
# What the project promises of int8.
MAX_RELATIVE_DIFFERENCE = 0.005
MIN_AGREEMENT = 0.98
BOUND_MISSED = 1  # exit code


@dataclass(frozen=True)
class QualityOptions:
    """How much of the text is measured."""

    max_tokens: int = knob(
        20_000, low=1, high=10_000_000, step=1, help="Most tokens to predict, from the beginning"
    )


@dataclass(frozen=True)
class Document:
    """Tokens; `num_bytes` in UTF-8 of all but the first."""

    token_ids: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class Predictions:
    """What a model in one precision makes of the text: an item for each predicted token."""

    log_probabilities: tuple[float, ...]
    likeliest: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """A precision against fp32; `relative_difference` is that of the bits per byte.

    `agreement`: how often both have the same likeliest token, from 0 to 1. The absolute differences
    are between the log-probabilities of a token, in nats.
    """

    num_tokens: int
    num_bytes: int
    bits_per_byte: float
    reference_bits_per_byte: float
    relative_difference: float
    agreement: float
    mean_absolute_difference: float
    max_absolute_difference: float
    is_within_bounds: bool


def add_quality_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `quality` to a parser."""
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"held-out text: {' '.join(READERS)}",
    )
    parser.add_argument(
        "--model",
        action="append",
        help="a name, run:<id>/<checkpoint> or a folder; may be given several times (default: "
        "every known model on this machine)",
    )
    add_arguments(parser, QualityOptions)
    add_arguments(parser, EngineOptions)
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")


def run_quality(arguments: argparse.Namespace) -> int:
    """Measure each model in the precision asked for and in fp32.

    Returns the exit code: 0, or 1 where a bound is missed.

    Raises:
        StentorError: an option, a model or the text is wrong.
    """
    max_tokens = from_arguments(QualityOptions, arguments).max_tokens
    options = from_arguments(EngineOptions, arguments)
    precision = resolve(options.precision)
    if precision == REFERENCE:
        raise OptionError(f"Choose another precision than {REFERENCE}, which it is compared with.")
    references = arguments.model or models_at_hand()
    results = []
    if not arguments.json:
        print(_row("model", precision, REFERENCE, "difference", "same top", "mean |d|", "max |d|"))
    for reference in references:
        fetch_if_missing(reference)
        model, comparison = measure(
            reference, arguments.text, max_tokens, precision, options.threads
        )
        results.append((model, comparison))
        if not arguments.json:
            print(_line(model["model"], comparison), flush=True)
    report = {
        "text": arguments.text.name,
        "text_hash": file_hash(arguments.text),
        "max_tokens": max_tokens,
        "max_relative_difference": MAX_RELATIVE_DIFFERENCE,
        "min_agreement": MIN_AGREEMENT,
        "versions": versions(),
        "machine": machine(),
        "results": [{**model, **to_json(comparison)} for model, comparison in results],
    }
    print(json.dumps(report))
    is_good = all(comparison.is_within_bounds for _, comparison in results)
    return 0 if is_good else BOUND_MISSED


def measure(
    reference: str, path: Path, max_tokens: int, precision: str, num_threads: int | None = None
) -> tuple[dict[str, Any], Comparison]:
    """Return a model, as it was in `precision`, and how that compares with fp32.

    One of the two is in memory at a time.

    Raises:
        StentorError: the model or the text cannot be read, or holds no two tokens.
    """
    model: dict[str, Any] = {}
    documents: tuple[Document, ...] = ()
    predictions: dict[str, Predictions] = {}
    for name in (REFERENCE, precision):
        with open_store(EngineOptions(name, num_threads)) as store:
            loaded = store.load(reference)
            documents = documents or _tokenise(loaded, path, max_tokens)
            predictions[name] = predict(loaded, documents)
            model = model_json(loaded)
    num_bytes = sum(document.num_bytes for document in documents)
    return model, compare(predictions[REFERENCE], predictions[precision], num_bytes)


def _tokenise(loaded: LoadedModel, path: Path, max_tokens: int) -> tuple[Document, ...]:
    """Return the beginning of a file as tokens, `max_tokens` of them to be predicted."""
    documents = []
    for text in read_documents(path):
        encoding = encode(loaded, text)
        token_ids = encoding.ids[: max_tokens + 1]
        if len(token_ids) > 1:
            num_bytes = num_bytes_after_first(text, encoding, len(token_ids))
            documents.append(Document(tuple(token_ids), num_bytes))
            max_tokens -= len(token_ids) - 1
        if max_tokens < 1:
            break
    if not sum(document.num_bytes for document in documents):
        raise DataError(f"{path} holds no text of two tokens. Give a file with more.")
    return tuple(documents)


def predict(loaded: LoadedModel, documents: Iterable[Document]) -> Predictions:
    """Return how likely each token was to a model, and what was likeliest there."""
    records = [
        record
        for document in documents
        for record in score_tokens(
            loaded.engine, document.token_ids, session=SESSION, num_alternatives=1
        )
    ]
    return Predictions(
        tuple(record.log_probability for record in records),
        tuple(record.alternatives[0].token_id for record in records),
    )


def compare(reference: Predictions, other: Predictions, num_bytes: int) -> Comparison:
    """Return `other` against `reference`; both predicted the same tokens of `num_bytes` bytes."""
    expected, found = (total_bits(each.log_probabilities) for each in (reference, other))
    num_tokens = len(reference.likeliest)
    tops = zip(reference.likeliest, other.likeliest, strict=True)
    agreement = sum(before == after for before, after in tops) / num_tokens
    pairs = zip(reference.log_probabilities, other.log_probabilities, strict=True)
    distances = [abs(before - after) for before, after in pairs]
    relative = (found - expected) / expected
    return Comparison(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        bits_per_byte=found / num_bytes,
        reference_bits_per_byte=expected / num_bytes,
        relative_difference=relative,
        agreement=agreement,
        mean_absolute_difference=math.fsum(distances) / num_tokens,
        max_absolute_difference=max(distances),
        is_within_bounds=abs(relative) <= MAX_RELATIVE_DIFFERENCE and agreement >= MIN_AGREEMENT,
    )


def _line(name: str, comparison: Comparison) -> str:
    figures = (
        f"{comparison.bits_per_byte:.4f}",
        f"{comparison.reference_bits_per_byte:.4f}",
        f"{comparison.relative_difference:+.3%}",
        f"{comparison.agreement:.2%}",
        f"{comparison.mean_absolute_difference:.4f}",
        f"{comparison.max_absolute_difference:.3f}",
    )
    verdict = "good" if comparison.is_within_bounds else "a bound is missed"
    return f"{_row(name, *figures)}  {verdict}"


def _row(name: str, *figures: str) -> str:
    return f"{name:<24}" + "".join(f"{figure:>12}" for figure in figures)
