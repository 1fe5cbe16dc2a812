"""An evaluation as JSON (full provenance and results) or CSV (a line per prompt and model).

Pure functions from records to text, and one that writes a file. Knows no engine and no Gradio.
"""

import csv
import io
import json
import math
import unicodedata
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.evaluation_store import Evaluation, Result, read_results, summarise

EXPORT_FORMATS = (".json", ".csv")
# A spreadsheet takes a cell that begins like this for a formula and runs it, and model output is
# untrusted text. Some take full-width forms too. Source: OWASP, CSV Injection.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
PROVENANCE_COLUMNS = (
    "evaluation",
    "revision",
    "precision",
    "device",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "suite_hash",
)
RESULT_COLUMNS = tuple(field.name for field in fields(Result))


def export_json(evaluation: Evaluation, results: list[Result]) -> str:
    """Return one JSON object: provenance, summaries, results. NaN is kept, as the text "NaN"."""
    values = {
        **asdict(evaluation),
        "summaries": [asdict(summary) for summary in summarise(results)],
        "results": [asdict(result) for result in results],
    }
    return json.dumps(_standard(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _standard(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return `value` with NaN and infinities as text, because JSON has no number for them."""
    if isinstance(value, dict):
        return {key: _standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("nan", "NaN").replace("inf", "Infinity")
    return value


def export_csv(evaluation: Evaluation, results: list[Result]) -> str:
    """Return a header and one line per result; every line carries its own provenance."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow([*RESULT_COLUMNS, *PROVENANCE_COLUMNS])
    for result in results:
        model = evaluation.models[result.side]
        known = {
            **evaluation.sampling.get(result.category, {}),
            "evaluation": evaluation.id,
            "revision": model.revision,
            "precision": model.precision,
            "device": model.device,
            "seed": evaluation.settings.seed,
            "suite_hash": evaluation.suite_hash,
        }
        cells = [*asdict(result).values(), *(known.get(name) for name in PROVENANCE_COLUMNS)]
        writer.writerow([_safe_cell(cell) for cell in cells])
    return stream.getvalue()


def _safe_cell(value: object) -> object:
    """Return text that no spreadsheet runs; numbers stay numbers, -2.5 among them."""
    if isinstance(value, str):
        first = unicodedata.normalize("NFKC", value.lstrip(" ")[:1])
        return f"'{value}" if first in FORMULA_STARTS else value
    return value


def write_export(evaluation: Evaluation, path: Path) -> Path:
    """Write what is finished so far to `path`; its suffix chooses the format. Return the path.

    Raises:
        OptionError: the suffix is neither .json nor .csv, or the file cannot be written.
    """
    check_export_path(path)
    results = read_results(evaluation)
    is_json = path.suffix.lower() == ".json"
    text = export_json(evaluation, results) if is_json else export_csv(evaluation, results)
    # Excel takes a CSV without a byte order mark for the system's own 8-bit encoding.
    encoding = "utf-8" if is_json else "utf-8-sig"
    try:
        # newline="": the csv module has written its own line ends.
        with path.open("w", encoding=encoding, newline="") as stream:
            stream.write(text)
    except OSError as error:
        raise OptionError(f"{path} cannot be written ({error}). Choose another place.") from error
    return path


def check_export_path(path: Path) -> None:
    """Refuse a file name whose format is unknown, before any work is done.

    Raises:
        OptionError: names the suffix and those that exist.
    """
    if path.suffix.lower() not in EXPORT_FORMATS:
        known = " or ".join(EXPORT_FORMATS)
        raise OptionError(f"An export ends in {known}; got {path.name!r}.")
