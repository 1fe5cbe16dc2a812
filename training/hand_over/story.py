"""What a run did, read from its folder: the facts that a model card is made of.

Knows no words: those are in model_card.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stentor.errors import RunError, StentorError
from stentor.hub import folder_of
from stentor.loading import read_json
from stentor.models import find_model
from stentor.runs import Run, current_status, list_checkpoints, read_events, read_recipe
from training.integrity import TRAINER_FILE
from training.recipe import Recipe, Stage, recipe_from_json

MAX_WARNINGS = 20


@dataclass
class StageStory:
    """One stage as it went; losses are nats per token, None where nothing was measured."""

    stage: Stage
    steps: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)  # of its event `stage_started`
    first_validation: float | None = None
    last_validation: float | None = None
    by_source: Mapping[str, float] = field(default_factory=dict)
    last_loss: float | None = None
    growth: Mapping[str, Any] | None = None
    epochs: float | None = None


@dataclass
class RunStory:
    """A whole run. `tokens`: that led to the checkpoint. `resumes`: after a stop or a kill."""

    run: Run
    recipe: Recipe
    state: str
    checkpoint: str
    stages: dict[str, StageStory]
    tokens: int
    start_licence: str | None = None  # as the start model's own card names it
    resumes: int = 0
    machines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    samples: list[Mapping[str, Any]] = field(default_factory=list)


def read_story(run: Run, checkpoint: str | None = None) -> RunStory:
    """Return what a run did up to `checkpoint`, by default the last that a finished run wrote.

    Raises:
        RunError: the run is not finished and no checkpoint is named, or it has no such checkpoint.
        ModelError: the checkpoint is damaged.
    """
    recipe = recipe_from_json(read_recipe(run))
    state, name = current_status(run).state, checkpoint or _final_name(run, recipe)
    names = [folder.name for folder in list_checkpoints(run)]
    if checkpoint is None and state != "finished":
        raise RunError(
            f"Run {run.id} is {state}, not finished. Name one of its checkpoints to hand that one "
            f"over: {', '.join(names) or 'it has none yet'}."
        )
    if name not in names:
        raise RunError(f"Run {run.id} has no checkpoint {name!r:.80}; it has: {', '.join(names)}.")
    stages = {stage.name: StageStory(stage) for stage in recipe.stages}
    # Not those of the events, which count what a stage took after another branched off it.
    tokens = int(read_json(run.checkpoints_folder / name / TRAINER_FILE)["tokens"])
    story = RunStory(run, recipe, state, name, stages, tokens, _start_licence(recipe))
    for event in _events_up_to(run, name):
        _take(story, event)
    return story


def _final_name(run: Run, recipe: Recipe) -> str:
    last = recipe.stages[-1]
    return f"{last.name}-{last.total_steps():06d}"


def _start_licence(recipe: Recipe) -> str | None:
    """Return the licence in the front matter of the start model's card, where it is at hand."""
    try:
        folder = folder_of(find_model(recipe.start)) if recipe.start else None
        card = (folder / "README.md").read_text(encoding="utf-8") if folder else ""
    except (StentorError, OSError, UnicodeDecodeError):  # moved or deleted since
        return None
    front_matter = card.split("---")[1] if card.startswith("---") else ""
    found = re.search(r"^license: *(\S{1,60})", front_matter, re.MULTILINE)
    return found[1] if found else None


def _events_up_to(run: Run, checkpoint: str) -> Iterator[dict[str, Any]]:
    """Yield the events until the last one that tells of this checkpoint, its samples included."""
    events = list(read_events(run))
    told = [n for n, e in enumerate(events) if checkpoint in (e.get("name"), e.get("checkpoint"))]
    yield from events[: max(told, default=len(events) - 1) + 1]


def _take(story: RunStory, event: Mapping[str, Any]) -> None:
    """Add one event to what is known; unknown kinds are passed over."""
    kind = event["kind"]
    stage = story.stages.get(str(event.get("stage")))
    if kind == "machine":
        name = f"{event.get('name')}, {event.get('num_workers', 1)} process(es)"
        if name not in story.machines:
            story.machines.append(name)
    elif kind == "warning" and len(story.warnings) < MAX_WARNINGS:
        story.warnings.append(str(event.get("message")))
    elif kind == "resumed":
        story.resumes += 1
    elif kind == "sample" and event.get("checkpoint", story.checkpoint) == story.checkpoint:
        story.samples.append(event)
    elif stage is not None:
        _take_of_stage(story, stage, event)


def _take_of_stage(story: RunStory, stage: StageStory, event: Mapping[str, Any]) -> None:
    kind = event["kind"]
    if kind == "stage_started":
        stage.facts = event
    elif kind == "growth":
        stage.growth = event
    elif kind == "data":
        stage.epochs = event.get("epochs")
    elif kind == "metrics":
        stage.steps, stage.last_loss = event["step"], event["loss"]
    elif kind == "validation":
        stage.last_validation = event["loss"]
        stage.by_source = event.get("by_source") or {}
        if stage.first_validation is None:
            stage.first_validation = event["loss"]
