"""What the Prompts tab shows, as HTML made from records. Every text is escaped here.

Prompts come from files and outputs from models: both are untrusted. Knows no handlers.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from stentor.evaluation_store import Evaluation, ModelUsed, Result, Summary, summarise
from stentor.prompts import ALL, Category, Prompt, categories
from stentor.ui.shared import duration, empty_state, escape, number, short_count, status_line

LABEL_CHARACTERS = 110
ORIGIN_WORDS = {"card": "from the model card", "written": "written for this project"}
SCORER_WORDS = {
    "expected": "an expected answer among the first words",
    "python": "whether the source parses",
    "fluency": "how little the text repeats itself",
}
STATE_KINDS = {"running": "info", "finished": "good", "stopped": "warning", "failed": "error"}


def category_title(name: str) -> str:
    """Return the title of a category by name; of one that no longer exists, its name."""
    if name == ALL:
        return "All categories"
    known = categories()
    return known[name].title if name in known else name


def prompt_label(prompt: Prompt) -> str:
    """Return a prompt on one line (plain text: the list escapes it)."""
    line = " ".join(prompt.text.split())
    short = line if len(line) <= LABEL_CHARACTERS else f"{line[: LABEL_CHARACTERS - 1]}…"
    return f"{short} (card)" if prompt.origin == "card" else short


def run_label(evaluation: Evaluation) -> str:
    """Return an evaluation on one line of a menu (plain text)."""
    moment = time.strftime("%d %b %H:%M", time.localtime(evaluation.started))
    models = " and ".join(model.title for model in evaluation.models)
    title = category_title(evaluation.settings.category)
    return f"{moment} · {title} · {models} · seed {evaluation.settings.seed} · {evaluation.state}"


def about_category(category: Category | None) -> str:
    """Return purpose, settings and their reason; None: of all categories together."""
    if category is None:
        return (
            '<div class="category-about"><p>Every category with its own temperature and token '
            "limit. A run of all of them takes ten times as long as one.</p></div>"
        )
    verdict = ""
    if category.card_verdict:
        verdict = f"<p>Stentor-Big's card calls its results <b>{category.card_verdict}</b>.</p>"
    return (
        f'<div class="category-about"><p>{escape(category.purpose)}</p>{verdict}'
        f"<details><summary>Temperature {category.temperature:g}, at most "
        f"{category.max_new_tokens} tokens</summary><p>{escape(category.settings_reason)} "
        f"Scored by {SCORER_WORDS[category.scorer]}.</p></details></div>"
    )


def prompt_detail(
    prompt: Prompt | None, evaluation: Evaluation | None, results: Sequence[Result]
) -> str:
    """Return one prompt with the outputs of both models beside each other."""
    if prompt is None:
        return empty_state("No prompt chosen", "Choose one in the list to see what became of it.")
    category = categories()[prompt.category]
    head = (
        f'<div class="prompt-detail"><h3>{escape(prompt.id)}</h3>'
        f'<p class="prompt-facts">{escape(category.title)} · {ORIGIN_WORDS[prompt.origin]}'
        f"{_expected(prompt)}</p>"
    )
    if evaluation is None or prompt.category not in evaluation.sampling:
        text = (
            "Press Run category: both models continue its prompts with the same settings and the "
            "same seed, and their texts appear here beside each other."
        )
        quoted = f'<p class="prompt-text">{escape(prompt.text)}</p>'
        return f"{head}{quoted}{empty_state('No run of this category yet', text)}</div>"
    sampling = evaluation.sampling[prompt.category]
    found = {item.side: item for item in results if item.prompt_id == prompt.id}
    panes = "".join(
        _pane(prompt, model, found.get(side), evaluation, sampling)
        for side, model in enumerate(evaluation.models)
    )
    settings = f'<p class="prompt-facts">{escape(_settings_line(sampling))}</p>'
    return f'{head}{settings}<div class="prompt-panes">{panes}</div></div>'


def _expected(prompt: Prompt) -> str:
    if not prompt.expected:
        return ""
    return " · expected: " + " or ".join(f"<b>{escape(text)}</b>" for text in prompt.expected)


def _settings_line(sampling: Mapping[str, Any]) -> str:
    """Return the settings really used, the same for both models."""
    shown = {
        name: f"{value:g}" if isinstance(value, float) else str(value)  # a seed in full
        for name, value in sampling.items()
    }
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in shown.items())


def _pane(
    prompt: Prompt,
    model: ModelUsed,
    result: Result | None,
    evaluation: Evaluation,
    sampling: Mapping[str, Any],
) -> str:
    """Return one model's output, in the dress of Compare's panes."""
    if result is None:
        is_running = evaluation.state == "running"
        note = "Not reached yet." if is_running else "The run ended before this prompt."
        body, rest, state = f'<p class="pane-note">{note}</p>', "", "done"
    else:
        # What was sent is shown, even where the file has changed since.
        body = (
            f'<span class="pane-prompt">{escape(result.prompt)}</span>'
            f'<span class="pane-text">{escape(result.text)}</span>'
        )
        rest, state = _pane_end(result, sampling), "error" if result.error else "done"
    return (
        f'<section class="pane" data-state="{state}"><header><b>{escape(model.title)}</b>'
        f'<span class="pane-meta">{escape(_model_line(model))}</span></header>'
        f'<div class="pane-body" tabindex="0" role="region" '
        f'aria-label="{escape(model.title)} on {escape(prompt.id)}">{body}</div>{rest}</section>'
    )


def _pane_end(result: Result, sampling: Mapping[str, Any]) -> str:
    """Return the score and the figures of one output, or why there is none."""
    if result.error:
        return f'<p class="pane-message" role="status">{escape(result.error)}</p>'
    value = "No score" if result.score is None else f"Score {result.score:.2f}"
    figures = [
        f"{result.num_tokens} of {sampling['max_new_tokens']} tokens",
        f"{number(result.tokens_per_second)} tokens/s",
        f"{number(result.mean_log_probability)} nats/token",
        str(result.stop_reason),
    ]
    return (
        f'<p class="pane-score"><b>{value}</b> {escape(result.score_note)}</p>'
        f'<footer class="pane-figures">{escape(" · ".join(figures))}</footer>'
    )


def _model_line(model: ModelUsed) -> str:
    if model.revision is None:
        return "not loaded yet"
    size = short_count(model.num_parameters or 0)
    return f"{size} parameters · {model.precision} · {model.revision[:19]}"


def progress(evaluation: Evaluation | None, num_finished: int) -> str:
    """Return how far this browser's run is, or how it ended; empty where there is none."""
    if evaluation is None:
        return ""
    title = category_title(evaluation.settings.category)
    done = f"{num_finished} of {evaluation.total} texts"
    if evaluation.state != "running":
        took = ""
        if evaluation.finished is not None:
            took = f" after {duration(evaluation.finished - evaluation.started)}"
        why = f" {evaluation.error}" if evaluation.error else ""
        text = f"{title}: {evaluation.state}{took}, {done}.{why}"
        return status_line(text, STATE_KINDS.get(evaluation.state, "warning"))
    if evaluation.models[1].revision is None:
        done = "loading the models"
    # No live region: a screen reader would read every tick. The end is announced.
    return (
        f'<p class="run-progress"><progress value="{num_finished}" max="{evaluation.total}" '
        f'aria-label="Progress of the run"></progress> {escape(title)}: {done}</p>'
    )


def score_table(evaluation: Evaluation | None, results: Sequence[Result]) -> str:
    """Return the mean scores by category and where all numbers come from."""
    if evaluation is None:
        return empty_state(
            "No run chosen", "Mean scores of a run and where they come from are shown here."
        )
    table = {(item.category, item.side): item for item in summarise(results)}
    heads = "".join(f'<th scope="col">{escape(model.title)}</th>' for model in evaluation.models)
    rows = "".join(
        f'<tr><th scope="row">{escape(category_title(name))} {_scored_by(name)}</th>'
        f"{_score_cell(table.get((name, 0)))}{_score_cell(table.get((name, 1)))}</tr>"
        for name in evaluation.sampling
    )
    return (
        f'<div class="score-table"><table><caption>Mean scores, from 0 to 1: '
        f"{escape(run_label(evaluation))}</caption>"
        f'<thead><tr><th scope="col">Category</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        f"{_provenance(evaluation)}</div>"
    )


def _score_cell(summary: Summary | None) -> str:
    if summary is None:
        return f"<td>{number(None)}</td>"
    counts = f"{summary.num_scored} of {summary.num_results} scored"
    mean = number(None) if summary.mean is None else f"{summary.mean:.2f}"
    return f"<td>{mean} <small>{counts}</small></td>"


def _scored_by(category: str) -> str:
    """Say what a category's scores mean: a high one may mean little."""
    known = categories()
    return f"<small>{SCORER_WORDS[known[category].scorer]}</small>" if category in known else ""


def _provenance(evaluation: Evaluation) -> str:
    """Return what is needed to repeat the run."""
    rows = [
        (model.title, f"{model.reference}, {_model_line(model)}") for model in evaluation.models
    ]
    rows += [
        ("Prompts", evaluation.suite_hash),
        ("Seed", str(evaluation.settings.seed)),
        ("Versions", ", ".join(f"{key} {value}" for key, value in evaluation.versions.items())),
        ("Folder", evaluation.id),
    ]
    items = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in rows)
    return f"<details><summary>Where these numbers come from</summary><dl>{items}</dl></details>"
