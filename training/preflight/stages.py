"""What every stage of a recipe will find: the model's shape and its tokenizer, without weights.

A stage that creates a model gets a tokenizer trained on a little of its text, and so many rows as
the recipe asks for.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from stentor.errors import DataError, ModelError, StentorError
from stentor.loading import (
    LlamaShape,
    count_parameters,
    open_checkpoint_folder,
    read_json,
)
from stentor.runs import Run
from training.checkpoint import TOKENIZER_FILES, end_token_of
from training.expansion import grown_shape, plan_growth
from training.integrity import TRAINER_FILE
from training.preflight.report import (
    DATA,
    ERROR,
    RECIPE,
    TOKENIZER,
    WARNING,
    Problem,
    problem_of,
)
from training.recipe import Recipe, Stage
from training.recorder import SilentRecorder
from training.runner import locate_start
from training.settings import CreateSettings, ExpandSettings, PretrainSettings
from training.sources import read_documents
from training.stages.context import StageContext
from training.stages.create import new_shape
from training.tokenizer import END_TOKEN_ID, train_tokenizer
from training.workers import Workers

# Enough for a tokenizer whose windows look like those of the real one; takes a second or two.
TOKENIZER_CHARACTERS = 300_000


@dataclass(frozen=True)
class PlannedStage:
    """A stage and the model it leaves behind.

    `rate_factor`: what the growth before it does to the learning rate that suits the smaller model
    (1: nothing); `source_rate`: the peak rate of that model's own training, where it is known.
    """

    stage: Stage
    shape: LlamaShape
    tokenizer: Tokenizer
    end_token: int
    tokenizer_bytes: int
    rate_factor: float = 1.0
    source_rate: float | None = None


def planning_context(recipe: Recipe) -> StageContext:
    """Return what stages are told of their recipe: seeds, and who goes on with whose moments.

    There is no run and no recorder behind it, so nothing may be written or said through it.
    """
    run = Run(Path())
    return StageContext(run, recipe, SilentRecorder(run), Workers(torch.device("cpu")))


def plan_stages(
    recipe: Recipe, unreadable: Collection[str | None], folder: Path
) -> tuple[list[PlannedStage], list[Problem]]:
    """Return the stages up to the first that cannot be, and what is wrong with them.

    `unreadable`: stages whose text cannot be read, so that no tokenizer can be trained on it.
    `folder` takes the files of a tokenizer that is trained to look at.
    """
    planned: list[PlannedStage] = []
    problems: list[Problem] = []
    present, found = _open_start(recipe)
    problems += found
    for stage in recipe.stages:
        is_new = isinstance(stage.settings, CreateSettings)
        if (is_new and stage.name in unreadable) or (present is None and not is_new):
            break
        try:
            present = _after(stage, present, recipe, folder)
        except StentorError as error:
            what = DATA if isinstance(error, DataError) else RECIPE
            problems.append(problem_of(error, what, stage.name))
            break
        problems += _tokenizer_problems(stage, present, is_first=not planned)
        planned.append(present)
    return planned, problems


def _open_start(recipe: Recipe) -> tuple[PlannedStage | None, list[Problem]]:
    """Return the start model as if a stage had left it; None where there is none to open."""
    try:
        folder = locate_start(recipe)
        if folder is None:
            return None, []
        count_parameters(folder)  # all but the tokenizer
    except StentorError as error:
        return None, [problem_of(error, RECIPE)]
    try:
        checkpoint = open_checkpoint_folder(folder)
        end_token = end_token_of(checkpoint)
    except ModelError as error:
        return None, [problem_of(error, TOKENIZER)]
    model = PlannedStage(
        stage=recipe.stages[0],
        shape=checkpoint.shape,
        tokenizer=checkpoint.tokenizer,
        end_token=end_token,
        tokenizer_bytes=_size_of_files(folder),
        source_rate=_trained_rate(folder),
    )
    return model, []


def _after(stage: Stage, before: PlannedStage | None, recipe: Recipe, folder: Path) -> PlannedStage:
    """Return what a stage leaves.

    Raises:
        StentorError: the growth is not possible, or there is no text to train a tokenizer on.
    """
    settings = stage.settings
    if isinstance(settings, CreateSettings):
        return _created(stage, settings, recipe.seed, folder / stage.name)
    assert before is not None
    if isinstance(settings, ExpandSettings):
        return _grown(stage, settings, before, recipe)
    return replace(before, stage=stage)


def _created(stage: Stage, settings: CreateSettings, seed: int, folder: Path) -> PlannedStage:
    characters = min(TOKENIZER_CHARACTERS, settings.max_characters)
    documents = read_documents(settings.sources, seed)
    tokenizer = train_tokenizer(documents, settings.vocab_size, characters, folder)
    shape = new_shape(settings)
    return PlannedStage(stage, shape, tokenizer, END_TOKEN_ID, _size_of_files(folder))


def _grown(
    stage: Stage, settings: ExpandSettings, before: PlannedStage, recipe: Recipe
) -> PlannedStage:
    target = grown_shape(
        before.shape,
        settings.hidden_size,
        settings.intermediate_size,
        settings.num_layers,
        settings.num_heads,
        settings.vocab_size,
    )
    plan = plan_growth(
        before.shape,
        target,
        width=settings.width,
        depth=settings.depth,
        seed=recipe.seed,
        symmetry_break=settings.symmetry_break,
    )
    trained = before.stage.settings
    rate = before.source_rate
    if isinstance(trained, PretrainSettings) and recipe.stages.index(stage):
        rate = trained.learning_rate  # of the stage before, not of the one the start stands for
    return replace(
        before,
        stage=stage,
        shape=target,
        rate_factor=plan.learning_rate_factor,
        source_rate=rate,
    )


def _tokenizer_problems(stage: Stage, present: PlannedStage, *, is_first: bool) -> list[Problem]:
    """Return what is odd about the tokenizer of a stage beside its embedding."""
    num_tokens, num_rows = present.tokenizer.get_vocab_size(), present.shape.vocab_size
    if isinstance(stage.settings, CreateSettings) and not is_first:
        return [
            Problem(
                stage.name,
                ERROR,
                TOKENIZER,
                "A new model with a new tokenizer begins here; what the stages before have trained "
                "would be lost.",
                "Put this stage first, or leave out what comes before it.",
            )
        ]
    asked = stage.settings.vocab_size if isinstance(stage.settings, ExpandSettings) else None
    if asked is not None and num_rows > num_tokens:
        return [
            Problem(
                stage.name,
                WARNING,
                TOKENIZER,
                f"The embedding gets {num_rows:,} rows and the tokenizer has {num_tokens:,} "
                f"tokens: {num_rows - num_tokens:,} rows are never used.",
                "Leave vocab_size empty to keep the rows of the start model.",
            )
        ]
    return []


def _size_of_files(folder: Path) -> int:
    """Return the bytes of the tokenizer that every checkpoint repeats."""
    files = [folder / name for name in TOKENIZER_FILES]
    return sum(path.stat().st_size for path in files if path.is_file())


def _trained_rate(folder: Path) -> float | None:
    """Return the peak learning rate that a checkpoint of ours was trained with, or None."""
    try:
        settings = read_json(folder / TRAINER_FILE).get("settings")
    except ModelError:  # not one of ours
        return None
    rate = settings.get("learning_rate") if isinstance(settings, dict) else None
    return float(rate) if isinstance(rate, int | float) else None
