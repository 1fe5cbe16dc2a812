"""What the planner's forms are made of: every option of a recipe, read from its declarations.

Names, ranges, defaults and help come from training/settings.py, alarm_settings.py and recipe.py;
said here is only how options are grouped, and how those without a knob are called. Knows no Gradio.
"""

import dataclasses
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from stentor.knobs import Knob, knobs, label
from training.alarm_settings import AlarmSettings
from training.hand_over.settings import HandOverSettings
from training.recipe import Recipe, Stage
from training.recipes import RECIPES, find_recipe
from training.settings import (
    SETTINGS,
    WINDOW_TOKENS,
    CreateSettings,
    ExpandSettings,
    PretrainSettings,
    Source,
)

# Heading -> options. What is in no group is shown below MORE, so a new option is never lost.
GROUPS: dict[type, dict[str, tuple[str, ...]]] = {
    Stage: {"Stage": ("title", "name")},
    CreateSettings: {
        "Text": ("sources", "max_characters"),
        "Shape": ("hidden_size", "intermediate_size", "num_layers", "num_heads", "vocab_size"),
    },
    ExpandSettings: {
        "Way to grow": ("width", "symmetry_break", "depth"),
        "Shape": ("hidden_size", "intermediate_size", "num_layers", "num_heads", "vocab_size"),
    },
    PretrainSettings: {
        "Text": ("sources", "max_epochs"),
        "Length": ("budget", "num_steps", "num_tokens", "batch_size", "micro_batch_size"),
        "Learning rate": (
            "learning_rate",
            "schedule",
            "warmup_fraction",
            "decay_fraction",
            "final_fraction",
            "branch_fraction",
            "carry_optimizer",
        ),
        "Validation and checkpoints": (
            "validate_every",
            "validation_windows",
            "checkpoint_every",
            "keep_last",
            "keep_best",
        ),
        "Optimizer": ("optimizer", "weight_decay", "clip_norm"),
        "Memory and speed": ("precision", "gradient_checkpointing", "torch_compile"),
    },
    Recipe: {
        "Recipe": ("title", "name", "start", "purpose"),
        "Machine": ("seed", "devices", "num_processes", "num_threads"),
        "Samples": ("sample_prompts",),
        "Notes": ("notes",),
        "Pair": ("pair",),
    },
    AlarmSettings: {},
    HandOverSettings: {},
    Source: {},
}
MORE = "More"
# Made by the planner in other ways than by a field of a form.
ELSEWHERE: dict[type, tuple[str, ...]] = {
    Stage: ("kind", "settings", "skip"),
    Recipe: ("stages", "alarms"),
}
# What an option without a knob means; those of a source by what its name means for each kind.
HELP: dict[tuple[type, str], str] = {
    (Stage, "title"): "How the stage is called in the page and the log",
    (Stage, "name"): "Names its checkpoints and its flags: small letters, digits and _",
    (Recipe, "title"): "How the run is called",
    (Recipe, "name"): "Part of the run's folder name",
    (Recipe, "purpose"): "What the run is for, in a sentence",
    (Recipe, "start"): "The model that the first stage begins with",
    (Recipe, "sample_prompts"): "One a line; every checkpoint continues them from the same seed",
    (Recipe, "notes"): "One a line; they stay with the run",
    (Recipe, "pair"): "Two training stages, before and after growing, whose models are packed with "
    "their figures when the run ends; nothing: none",
    (PretrainSettings, "sources"): "What the stage reads, mixed by weight",
    (CreateSettings, "sources"): "What the tokenizer is trained on",
    (Source, "name"): "Generated: its flavour; hub: the dataset; replay: an earlier stage",
    (Source, "subset"): "Of the dataset; nothing: the only one",
    (Source, "revision"): "A commit of the dataset, so that the run can be repeated",
    (Source, "column"): "Of .jsonl, .parquet and datasets",
    (Source, "paths"): "Files or folders",
    (Source, "licence"): "Of the text; the model card repeats it",
}
# Which options count for a kind of source; ALWAYS ones for each, as do those that are in no table.
SOURCE_OPTIONS = {
    "generated": ("name",),
    "files": ("paths", "column"),
    "hub": ("name", "subset", "revision", "column"),
    "replay": ("name",),
}
ALWAYS = ("kind", "weight", "licence")
KIND_TITLES = {
    "create": "Create a model",
    "expand": "Grow the model",
    "pretrain": "Train on text",
}


def schema() -> dict[str, Any]:
    """Return the forms as plain JSON: the options of each part, in groups."""
    return {
        "recipe": describe_options(Recipe),
        "alarms": describe_options(AlarmSettings),
        "stage": describe_options(Stage),
        "source": describe_options(Source),
        "settings": {kind: describe_options(settings) for kind, settings in SETTINGS.items()},
        "kind_titles": KIND_TITLES,
        "source_options": _source_options(),
        "flavours": _flavours(),
        "window_tokens": WINDOW_TOKENS,
    }


def describe_options(owner: type) -> dict[str, Any]:
    """Return the options of a settings class by name, and their groups."""
    hints = get_type_hints(owner)
    options = knobs(owner)
    fields = [f for f in dataclasses.fields(owner) if f.name not in ELSEWHERE.get(owner, ())]
    described = {
        field.name: _option(owner, field, hints[field.name], options.get(field.name))
        for field in fields
    }
    groups = [
        {"title": title, "options": [name for name in names if name in described]}
        for title, names in GROUPS[owner].items()
    ]
    grouped = {name for group in groups for name in group["options"]}
    rest = [name for name in described if name not in grouped]
    return {"options": described, "groups": [*groups, {"title": MORE, "options": rest}]}


def _option(
    owner: type,
    field: "dataclasses.Field[Any]",
    hint: Any,  # noqa: ANN401 - any annotation
    option: Knob | None,
) -> dict[str, Any]:
    """Return one option; without a knob it has no range."""
    found = option or Knob(HELP.get((owner, field.name), ""))
    return {
        "name": field.name,
        "label": label(field.name),
        "kind": "choice" if found.choices else _kind(hint),
        "optional": NoneType in get_args(hint),
        "low": found.low,
        "high": found.high,
        "step": found.step,
        "choices": list(found.choices),
        "default": _default(field),
        "help": found.help,
    }


def _kind(hint: Any) -> str:  # noqa: ANN401
    """Return which control a type needs: bool, int, float, text, lines or sources."""
    if get_origin(hint) is tuple:
        return "sources" if get_args(hint)[0] is Source else "lines"
    kinds = [kind for kind in (*get_args(hint), hint) if kind in (bool, int, float, str)]
    return "text" if kinds[0] is str else str(kinds[0].__name__)


def _default(field: "dataclasses.Field[Any]") -> Any:  # noqa: ANN401 - any JSON value
    if field.default is dataclasses.MISSING:
        return None
    if isinstance(field.default, tuple):
        plain = [
            dataclasses.asdict(item) if isinstance(item, Source) else item for item in field.default
        ]
        return plain
    return field.default


def _source_options() -> dict[str, list[str]]:
    """Return the options of each kind of source besides ALWAYS."""
    placed = {name for names in SOURCE_OPTIONS.values() for name in names} | {*ALWAYS}
    rest = [item.name for item in dataclasses.fields(Source) if item.name not in placed]
    return {kind: [*names, *rest] for kind, names in SOURCE_OPTIONS.items()}


def _flavours() -> list[str]:
    """Return the names of generated text that the recipes use."""
    names = {
        source.name
        for name in RECIPES
        for stage in find_recipe(name).stages
        if not isinstance(stage.settings, ExpandSettings)
        for source in stage.settings.sources
        if source.kind == "generated"
    }
    return sorted(names)
