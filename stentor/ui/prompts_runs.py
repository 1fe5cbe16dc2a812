"""Which evaluation the Prompts tab shows, its lines in the menu and its files to download.

All of it is read from the evaluations folder again each time. Knows no widgets.
"""

import secrets
from pathlib import Path

from stentor.evaluation_store import (
    Evaluation,
    list_evaluations,
    num_results,
    open_evaluation,
)
from stentor.exports import EXPORT_FORMATS, write_export
from stentor.prompts import ALL
from stentor.ui.prompts_view import run_label

MAX_LISTED_RUNS = 100


def run_choices(shown: Evaluation | None = None) -> list[tuple[str, str]]:
    """Return (label, id) of the newest runs of this machine, and of the one that is shown."""
    listed = list_evaluations(MAX_LISTED_RUNS)
    if shown is not None and shown.id not in {evaluation.id for evaluation in listed}:
        listed.append(shown)
    return [(run_label(evaluation), evaluation.id) for evaluation in listed]


def opened(evaluation_id: str | None) -> Evaluation | None:
    """Return the evaluation that a menu names, or None where it names none.

    Raises:
        RunError: no such evaluation.
    """
    return open_evaluation(evaluation_id) if evaluation_id else None


def newest_of(category: str) -> Evaluation | None:
    """Return the newest run that has results of a category (for `all`: of all of them), if any."""
    for evaluation in list_evaluations(MAX_LISTED_RUNS):
        fits = category in evaluation.sampling or category == evaluation.settings.category == ALL
        if fits and (evaluation.state == "running" or num_results(evaluation)):
            return evaluation
    return None


def export_files(evaluation: Evaluation | None, cache: Path) -> dict[str, Path | None]:
    """Return one file per format; None while there is nothing, or more to come.

    An evaluation that has ended never changes, so a file is written once and then found again.
    `cache`: Gradio's own folder, from which a browser may download and which it cleans up.
    """
    if evaluation is None or evaluation.state == "running" or not num_results(evaluation):
        return dict.fromkeys(EXPORT_FORMATS)
    folder = cache / "stentor-evaluations"
    folder.mkdir(parents=True, exist_ok=True)
    return {
        suffix: _written(evaluation, folder / f"stentor-{evaluation.id}{suffix}")
        for suffix in EXPORT_FORMATS
    }


def _written(evaluation: Evaluation, path: Path) -> Path:
    """Write the file once, beside and renamed, so that nobody downloads half of it."""
    if not path.exists():
        # Visitors may look at the same run in the same moment: each writes a file of its own.
        beside = path.with_name(f".{secrets.token_hex(8)}-{path.name}")
        write_export(evaluation, beside).replace(path)
    return path
