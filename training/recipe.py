"""A recipe is the complete input of a run: a start model, a seed and stages. Frozen and checked.

A stage turns a checkpoint folder into a checkpoint folder. What a kind of stage needs is its
settings class, listed in SETTINGS; the code that runs it is in training/stages/. Standard library
only.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stentor.errors import DataError, OptionError
from stentor.knobs import check, choose, knob, unchecked_from_json

# Windows hold this many tokens, the last of them end-of-sequence: the context of both real models.
WINDOW_TOKENS = 512
STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
SOURCE_KINDS = ("generated", "files", "hub")


@dataclass(frozen=True)
class Source:
    """Where a stage's text comes from. `name`: a flavour of generated text, or a Hub dataset."""

    kind: str = knob("generated", choices=SOURCE_KINDS, help="Where the text comes from")
    name: str = "general"
    subset: str | None = None
    revision: str | None = None
    column: str = "text"
    paths: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the source in a few words."""
        if self.kind == "files":
            return ", ".join(path.rsplit("/", 1)[-1] for path in self.paths) or "your own files"
        subset = f" ({self.subset})" if self.subset else ""
        return f"{self.name}{subset}" if self.kind == "hub" else f"generated text, {self.name}"


@dataclass(frozen=True)
class CreateSettings:
    """A new model: a tokenizer trained on the source, and random weights of this shape."""

    vocab_size: int = knob(4096, low=300, high=65_536, step=1, help="Tokens of the new tokenizer")
    hidden_size: int = knob(128, low=16, high=8192, step=1, help="Width of the residual stream")
    intermediate_size: int = knob(512, low=16, high=32_768, step=1, help="Width of the SwiGLU")
    num_layers: int = knob(7, low=1, high=200, step=1, help="Transformer blocks")
    num_heads: int = knob(2, low=1, high=128, step=1, help="Attention heads")
    sources: tuple[Source, ...] = (Source(),)
    max_characters: int = knob(
        30_000_000, low=1_000, high=10_000_000_000, step=1, help="Text the tokenizer is trained on"
    )


@dataclass(frozen=True)
class ExpandSettings:
    """A larger shape and how to reach it; sizes are those of the grown model."""

    width: str = knob("zero_pad", choices=("zero_pad", "slice"), help="How the layers get wider")
    depth: str = knob(
        "identity_interleave",
        choices=("identity_interleave", "random_top"),
        help="How layers are added",
    )
    hidden_size: int = knob(512, low=16, high=8192, step=1, help="Width of the residual stream")
    intermediate_size: int = knob(2048, low=16, high=32_768, step=1, help="Width of the SwiGLU")
    num_layers: int = knob(30, low=1, high=200, step=1, help="Transformer blocks")
    num_heads: int = knob(8, low=1, high=128, step=1, help="Attention heads")


@dataclass(frozen=True)
class PretrainSettings:
    """One pre-training stage: AdamW, linear warm-up, cosine decay."""

    sources: tuple[Source, ...] = (Source(),)  # documents in turn, one of each
    budget: str = knob("steps", choices=("steps", "tokens"), help="Which of the two limits counts")
    num_steps: int = knob(24, low=1, high=10_000_000, step=1, help="Optimizer steps")
    num_tokens: int = knob(50_000, low=512, high=10**13, step=1, help="Training tokens")
    batch_size: int = knob(4, low=1, high=4096, step=1, help="Windows of 512 tokens per step")
    micro_batch_size: int = knob(4, low=1, high=4096, step=1, help="Windows per forward pass")
    learning_rate: float = knob(2e-4, low=1e-8, high=1.0, step=1e-5, help="Peak learning rate")
    warmup_fraction: float = knob(0.05, low=0.0, high=1.0, step=0.01, help="Share of warm-up steps")
    final_fraction: float = knob(0.0, low=0.0, high=1.0, step=0.05, help="Last rate / peak rate")
    validation_windows: int = knob(
        8, low=1, high=4096, step=1, help="Held-out windows of 512 tokens"
    )
    weight_decay: float = knob(0.01, low=0.0, high=1.0, step=0.01, help="Decoupled weight decay")
    clip_norm: float = knob(
        1.0, low=0.0, high=1000.0, step=0.1, help="Gradient norm limit; 0 is off"
    )
    validate_every: int = knob(8, low=1, high=1_000_000, step=1, help="Steps between validations")
    checkpoint_every: int = knob(8, low=1, high=1_000_000, step=1, help="Steps between checkpoints")
    gradient_checkpointing: bool = knob(False, help="Less memory, about a quarter slower")

    def total_steps(self) -> int:
        """Return the optimizer steps that the chosen budget means."""
        if self.budget == "steps":
            return self.num_steps
        return max(1, math.ceil(self.num_tokens / self.tokens_per_step()))

    def tokens_per_step(self) -> int:
        """Return the tokens of one optimizer step."""
        return self.batch_size * WINDOW_TOKENS

    def total_tokens(self) -> int:
        """Return the tokens that the steps really see, rounded up to whole steps."""
        return self.total_steps() * self.tokens_per_step()


StageSettings = CreateSettings | ExpandSettings | PretrainSettings
SETTINGS: dict[str, type[CreateSettings] | type[ExpandSettings] | type[PretrainSettings]] = {
    "create": CreateSettings,
    "expand": ExpandSettings,
    "pretrain": PretrainSettings,
}


@dataclass(frozen=True)
class Stage:
    """One step of a recipe; `name` also names its checkpoints."""

    name: str
    kind: str
    title: str
    settings: StageSettings

    def total_steps(self) -> int:
        """Return the optimizer steps of this stage (0 where nothing is trained)."""
        return self.settings.total_steps() if isinstance(self.settings, PretrainSettings) else 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a run goes. `start`: a model reference, or None: from nothing."""

    name: str
    title: str
    purpose: str
    start: str | None
    stages: tuple[Stage, ...]
    seed: int = knob(0, low=0, high=2**63 - 1, step=1, help="Of data order and new weights")
    num_threads: int | None = knob(None, low=1, high=1024, step=1, help="Nothing: all cores")
    notes: tuple[str, ...] = ()


def check_recipe(recipe: Recipe) -> Recipe:
    """Return `recipe`, or raise one OptionError that names every problem."""
    problems = _problems_of(recipe)
    names = [stage.name for stage in recipe.stages]
    if not names:
        problems.append("A recipe needs at least one stage.")
    for stage in recipe.stages:
        if names.count(stage.name) > 1 or not STAGE_NAME.fullmatch(str(stage.name)):
            problems.append(f"{stage.name!r} must be a unique name of small letters and digits.")
        problems += [f"Stage {stage.name}: {problem}" for problem in _stage_problems(stage)]
    if recipe.stages and (recipe.start is None) != (recipe.stages[0].kind == "create"):
        problems.append("A recipe starts from a model, or its first stage creates one.")
    if problems:
        raise OptionError(" ".join(problems))
    return recipe


def _stage_problems(stage: Stage) -> list[str]:
    settings = stage.settings
    problems = _problems_of(stage, settings)
    if not problems and not isinstance(settings, ExpandSettings):
        problems = _problems_of(*settings.sources)
    if problems:
        return problems
    if isinstance(settings, PretrainSettings):
        batch, micro = settings.batch_size, settings.micro_batch_size
        if batch % micro:
            problems.append(f"Batch size {batch} is no multiple of micro batch size {micro}.")
    elif settings.hidden_size % (2 * settings.num_heads):
        problems.append(
            f"Hidden size {settings.hidden_size} must give each of {settings.num_heads} heads an "
            "even number of channels (rotary embedding turns pairs)."
        )
    return problems


def _problems_of(*parts: Recipe | Stage | StageSettings | Source) -> list[str]:
    """Return what `check` says of each part."""
    problems = []
    for part in parts:
        try:
            check(part)
        except OptionError as error:
            problems.append(str(error))
    return problems


def check_text(recipe: Recipe) -> None:
    """Make sure that every file a stage reads is there, before a run starts.

    Raises:
        DataError: a stage that reads files has none, or a path does not exist; names every one.
    """
    problems = []
    for stage in recipe.stages:
        if isinstance(stage.settings, ExpandSettings):
            continue
        for source in stage.settings.sources:
            if source.kind != "files":
                continue
            lost = [path for path in source.paths if not Path(path).exists()]
            problems += [f"Stage {stage.name}: {path} does not exist." for path in lost]
            if not source.paths:
                problems.append(f"Stage {stage.name} reads your own text and has none.")
    if problems:
        raise DataError(
            f"{' '.join(problems)} Give text with --text STAGE=FILE, or upload it in the "
            "Training tab."
        )


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain JSON values."""
    return asdict(recipe)


def recipe_from_json(values: Mapping[str, Any]) -> Recipe:
    """Rebuild a recipe; unknown keys and kinds are refused by name."""
    stages = values.get("stages") if isinstance(values, Mapping) else None
    if not isinstance(stages, list | tuple):
        raise OptionError("A recipe is an object with a list of stages under 'stages'.")
    built = tuple(_stage_from_json(stage) for stage in stages)
    return check_recipe(unchecked_from_json(Recipe, {**values, "stages": built}))


def _stage_from_json(values: Mapping[str, Any]) -> Stage:
    if not isinstance(values, Mapping):
        raise OptionError(f"A stage is an object with named values; got {values!r:.80}.")
    settings_class = choose(SETTINGS, values.get("kind", ""), "kind of stage")
    settings = unchecked_from_json(settings_class, values.get("settings", {}))
    return unchecked_from_json(Stage, {**values, "settings": settings})


def with_text(recipe: Recipe, paths: tuple[str, ...], stage_name: str | None = None) -> Recipe:
    """Return the recipe reading these files in one stage, or in every stage that reads text."""
    readers = {s.name: s for s in recipe.stages if not isinstance(s.settings, ExpandSettings)}
    if stage_name is not None:
        choose(readers, stage_name, "stage that reads text")

    def changed(stage: Stage) -> Stage:
        if isinstance(stage.settings, ExpandSettings) or stage_name not in (None, stage.name):
            return stage
        sources = tuple(Source(kind="files", paths=(path,)) for path in paths)
        return replace(stage, settings=replace(stage.settings, sources=sources))

    return replace(recipe, stages=tuple(changed(stage) for stage in recipe.stages))


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another seed."""
    return check_recipe(replace(recipe, seed=seed))


def with_budget(recipe: Recipe, budget: str) -> Recipe:
    """Return the recipe with `steps` or `tokens` deciding the length of every training stage."""
    for stage in recipe.stages:
        if isinstance(stage.settings, PretrainSettings):
            recipe = with_settings(recipe, stage.name, budget=budget)
    return recipe


def with_settings(recipe: Recipe, stage_name: str, **values: object) -> Recipe:
    """Return the recipe with some settings of one stage changed."""
    stages = {stage.name: stage for stage in recipe.stages}
    stage = choose(stages, stage_name, "stage")
    merged = {**asdict(stage.settings), **values}
    changed = _stage_from_json({**asdict(stage), "settings": merged})
    return check_recipe(
        replace(
            recipe,
            stages=tuple(changed if item.name == stage_name else item for item in recipe.stages),
        )
    )
