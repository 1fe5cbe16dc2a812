"""`python -m stentor score`: how likely every token of a text is to a model.

    python -m stentor score "The capital of France is Paris" --model demo-big --alternatives 3

The figures are the model's own, before any sampler. How a long text is read, and which tokens are
predicted, is said in token_scores.py.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from stentor.commands import (
    SESSION,
    TokenOptions,
    add_text_arguments,
    fetch_if_missing,
    model_json,
    models_named,
    printable,
    read_text,
)
from stentor.knobs import add_arguments, from_arguments
from stentor.provenance import machine, versions
from stentor.store import EngineOptions, LoadedModel, open_store
from stentor.token_scores import ScoredText, score_text, token_json, token_text

WIDEST_TOKEN = 24


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `score` to a parser."""
    add_text_arguments(parser, "text", "text to measure")
    add_arguments(parser, TokenOptions)
    add_arguments(parser, EngineOptions)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_score(arguments: argparse.Namespace) -> int:
    """Print every token with its log-probability and rank, and the bits per byte of the text.

    Raises:
        StentorError: an option, a model or the text is wrong.
    """
    num_alternatives = from_arguments(TokenOptions, arguments).alternatives
    options = from_arguments(EngineOptions, arguments)
    text = read_text(arguments.text)
    results = []
    with open_store(options) as store:
        for reference in models_named(arguments):
            fetch_if_missing(reference)
            loaded = store.load(reference)
            scored = score_text(loaded, text, session=SESSION, num_alternatives=num_alternatives)
            results.append(_result(loaded, scored))
            if not arguments.json:
                print("\n".join(_table(loaded, scored)), end="\n\n")
    if arguments.json:
        report = {"text": text, "versions": versions(), "machine": machine(), "results": results}
        print(json.dumps(report, indent=2))
    return 0


def _result(loaded: LoadedModel, scored: ScoredText) -> dict[str, Any]:
    """Return a model and what it makes of the text; the first token has no log-probability."""
    tokenizer = loaded.checkpoint.tokenizer
    first = {"token_id": scored.first_token, "text": token_text(tokenizer, scored.first_token)}
    return {
        **model_json(loaded),
        "context_length": loaded.engine.context_length,
        "num_predicted": len(scored.records),
        "num_bytes": scored.num_bytes,
        "bits": scored.bits,
        "bits_per_byte": scored.bits_per_byte,
        "first_token": first,
        "tokens": [token_json(record, tokenizer) for record in scored.records],
    }


def _table(loaded: LoadedModel, scored: ScoredText) -> Iterator[str]:
    """Yield the lines for people."""
    tokenizer = loaded.checkpoint.tokenizer
    yield f"{loaded.spec.title} ({loaded.spec.name}, {loaded.checkpoint.revision[:19]})"
    has_alternatives = any(record.alternatives for record in scored.records)
    yield _row("token", "log-prob", "rank", "likeliest" if has_alternatives else "")
    yield _row(
        repr(token_text(tokenizer, scored.first_token)), "-", "-", "the first: not predicted"
    )
    for record in scored.records:
        alternatives = "  ".join(
            f"{token_text(tokenizer, item.token_id)!r} {item.log_probability:.2f}"
            for item in record.alternatives
        )
        token = repr(token_text(tokenizer, record.token_id))
        yield _row(token, f"{record.log_probability:.3f}", f"{record.rank:,}", alternatives)
    yield _total(scored)


def _row(token: str, log_probability: str, rank: str, rest: str) -> str:
    line = f"{token:<{WIDEST_TOKEN}} {log_probability:>9} {rank:>7}  {rest}"
    return printable(line).rstrip()


def _total(scored: ScoredText) -> str:
    per_byte = "no" if scored.bits_per_byte is None else f"{scored.bits_per_byte:.4f}"
    return (
        f"[{len(scored.records):,} tokens predicted, {scored.bits:.1f} bits, "
        f"{per_byte} bits per byte]"
    )
