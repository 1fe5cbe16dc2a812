"""Updates of the Prompts tab's parts that need no service of the app: list, controls, hand-over."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError
from stentor.evaluation_store import Evaluation, num_results, read_results
from stentor.knobs import from_json, to_json
from stentor.prompts import ALL, Prompt, find_category, find_prompt, search
from stentor.ui import prompts_view as view
from stentor.ui.context import CompareRequest, compare_request
from stentor.ui.prompts_runs import opened
from stentor.ui.shared import empty_state, status_line

MAX_SEARCH = 200


def control_updates(own: Evaluation | None) -> list[Any]:
    """Return updates of: this browser's run, Run, Stop, progress, timer."""
    is_running = own is not None and own.state == "running"
    return [
        own.id if own else "",
        gr.Button(interactive=not is_running),
        gr.Button(interactive=is_running),
        view.progress(own, num_results(own) if own else 0),
        gr.Timer(active=is_running),
    ]


def filtered(
    category: str, text: str, origin: str, prompt: str | None, run: str | None
) -> list[Any]:
    """Return updates of: about, list, count, detail."""
    chosen, updates = list_updates(category, text, origin, prompt)
    return [*updates, detail_of(chosen, run)]


def list_updates(
    category: str, text: str, origin: str, prompt: str | None
) -> tuple[str | None, list[Any]]:
    """Return (prompt now chosen, updates of: about, list, count); a choice that fits is kept."""
    found = search(text[:MAX_SEARCH], category, origin)
    ids = [item.id for item in found]
    chosen = prompt if prompt in ids else next(iter(ids), None)
    about = view.about_category(None if category == ALL else find_category(category))
    return chosen, [
        about,
        gr.Radio(choices=choices_of(found), value=chosen),
        count_line(len(found)),
    ]


def choices_of(prompts: Sequence[Prompt]) -> list[tuple[str, str]]:
    """Return (label, id) of every prompt, for the list."""
    return [(view.prompt_label(prompt), prompt.id) for prompt in prompts]


def count_line(count: int) -> str:
    """Return how many prompts are listed, or what to do when there is none."""
    if count == 0:
        return empty_state("Nothing found", "Use fewer words, or search in all categories.")
    return status_line("1 prompt" if count == 1 else f"{count} prompts")


def found_prompt(prompt: str | None) -> Prompt | None:
    """Return the prompt chosen in the list, if one is."""
    return find_prompt(prompt) if prompt else None


def detail_of(prompt: str | None, run: str | None) -> str:
    """Return the detail of a prompt in the run shown."""
    evaluation = opened(run)
    return view.prompt_detail(
        found_prompt(prompt), evaluation, read_results(evaluation) if evaluation else []
    )


def prompt_for_compare(prompt: str | None, run: str | None) -> CompareRequest:
    """Return the prompt with the settings and seed of the run shown, else with its category's.

    An option that is younger than the run had its default then.
    """
    found = found_prompt(prompt)
    if found is None:
        raise OptionError("Choose a prompt in the list first.")
    category, evaluation = find_category(found.category), opened(run)
    if evaluation and category.name in evaluation.sampling:
        used = from_json(SamplingSettings, evaluation.sampling[category.name])
        return compare_request(found.text, settings=to_json(used))
    settings = {
        "temperature": category.temperature,
        "max_new_tokens": category.max_new_tokens,
    }
    return compare_request(found.text, settings=settings)
