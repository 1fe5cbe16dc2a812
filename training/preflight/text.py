"""The text of every stage: can it be read, is there enough of it, and what do windows look like?

The windows are made by the code that makes them in a run. Where that is quick a stage's text is
prepared whole, which answers everything; else a window of each source is, and the amount of text
is estimated. Text that is prepared here goes to a folder of the caller.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from stentor.errors import DataError, StentorError
from stentor.hub import is_offline
from training.data import prepare_stage_data
from training.disk import DiskError
from training.encoding import DocumentEncoder, token_dtype
from training.hub_text import read_hub
from training.mixture import make_mixture
from training.pair.measure import check_held_out
from training.preflight.disk_use import size_of
from training.preflight.report import (
    DATA,
    DISK,
    ERROR,
    NOTE,
    WARNING,
    Problem,
    Window,
    problem_of,
)
from training.preflight.stages import PlannedStage, planning_context
from training.preflight.text_amount import estimate_tokens, size_of_files
from training.recipe import Recipe, Stage, check_text, sources_of
from training.runner import check_sources
from training.settings import WINDOW_TOKENS, ExpandSettings, PretrainSettings, Source
from training.shards import SourceWindows, open_source
from training.sources import silent
from training.tokenise import HELD_OUT_SHARE

# So much is prepared whole: a second or two.
QUICK_TOKENS = 600_000
QUICK_BYTES = 2_000_000
HUB_SECONDS = 60.0
OFFLINE_MEND = "HF_HUB_OFFLINE is set, so the Hub is not asked: unset it, or give local files."
# An estimate of the text may be off by so much in either direction.
UNSURE = 1.15
# Reading again so little of a text is no news.
ONCE = 1.01

Result = TypeVar("Result")


@dataclass(frozen=True)
class TextLook:
    """What was seen of a stage's text; `data_bytes` is what its windows take on the disk."""

    windows: tuple[Window, ...] = ()
    problems: tuple[Problem, ...] = ()
    data_bytes: int = 0


def unreadable(recipe: Recipe) -> list[Problem]:
    """Return which sources cannot be read, stage by stage; the beginning of each is.

    Datasets of the Hub are asked at once, as each may take its time to say no.
    """
    sources = [(stage, source) for stage in recipe.stages for source in _own_sources(stage)]
    hub = {_without_share(source) for _, source in sources if source.kind == "hub"}
    with ThreadPoolExecutor(max(1, len(hub))) as pool:
        answers = dict(zip(hub, pool.map(_refusal_of_hub, hub), strict=True))
    problems = []
    for stage, source in sources:
        is_hub = source.kind == "hub"
        error = answers[_without_share(source)] if is_hub else _refusal(recipe, stage, source)
        if error:
            mend = OFFLINE_MEND if is_hub and is_offline() else ""
            problems.append(problem_of(error, DATA, stage.name, mend))
    if recipe.pair and not problems:
        try:
            check_held_out(recipe)
        except DataError as error:
            problems.append(problem_of(error, DATA))
    return problems


def _own_sources(stage: Stage) -> tuple[Source, ...]:
    return () if isinstance(stage.settings, ExpandSettings) else stage.settings.sources


def _without_share(source: Source) -> Source:
    """Return the text of a source alone, so that none is asked for twice."""
    return replace(source, weight=1.0, licence="")


def _refusal(recipe: Recipe, stage: Stage, source: Source) -> DataError | None:
    """Return what the trainer would say of one source of a stage, before it starts."""
    if isinstance(stage.settings, ExpandSettings) or source.kind == "replay":
        return None
    settings = replace(stage.settings, sources=(source,))
    alone = replace(recipe, stages=(replace(stage, settings=settings),))
    try:
        check_text(alone)
        check_sources(alone)
    except DataError as error:
        return error
    return None


def _refusal_of_hub(source: Source) -> DataError | None:
    try:
        within_time(partial(_first_row, source), source)
    except DataError as error:
        return error
    return None


def _first_row(source: Source) -> str | None:
    return next(read_hub(source), None)


def within_time(read: Callable[[], Result], source: Source) -> Result:
    """Return what `read` returns, if it does so in a minute.

    Raises:
        DataError: it does not; a connection may hang for hours. Or what `read` raises.
    """
    results: list[Result] = []
    errors: list[StentorError] = []

    def work() -> None:
        try:
            results.append(read())
        except StentorError as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    if errors:
        raise errors[0]
    if not results:
        raise DataError(
            f"{source.describe()} has not answered for {HUB_SECONDS:g} seconds. Look at the "
            "network, or give local files with --text."
        )
    return results[0]


def look_at_text(recipe: Recipe, planned: PlannedStage, folder: Path) -> TextLook:
    """Return the first window of each source of a training stage, and whether its text suffices.

    Everything that the stage reads must be readable. `folder` is free again afterwards.
    """
    settings = planned.stage.settings
    assert isinstance(settings, PretrainSettings)
    sources = sources_of(recipe, planned.stage)
    is_quick = _is_quick(sources, settings)
    looked = settings if is_quick else _one_window(settings)
    seed = planning_context(recipe).seed_of(planned.stage)
    problems: list[Problem] = []

    def prepare() -> bool:
        tokenizer, end = planned.tokenizer, planned.end_token
        prepare_stage_data(sources, tokenizer, end, looked, folder, seed, silent)
        return True

    hub = next((source for source in sources if source.kind == "hub"), None)
    try:
        within_time(prepare, hub) if hub else prepare()
    except DiskError as error:
        problems.append(problem_of(error, DISK, planned.stage.name))
    except DataError as error:
        problems.append(problem_of(error, DATA, planned.stage.name))
    found = [open_source(path) for path in sorted(folder.glob("*-*")) if _is_whole(path)]
    windows = tuple(_window(source, planned) for source in found)
    data_bytes = size_of(folder)
    if not is_quick:
        amounts = _amounts(sources, settings, seed, planned)
        problems += _amount_problems(planned.stage.name, amounts, settings)
        data_bytes = _predict_bytes(amounts, settings, planned)
    shutil.rmtree(folder, ignore_errors=True)
    return TextLook(windows, tuple(problems), data_bytes)


def _is_quick(sources: tuple[Source, ...], settings: PretrainSettings) -> bool:
    """Tell whether the whole text of a stage is prepared in a moment."""
    files = sum(size_of_files(source) for source in sources)
    kinds = {source.kind for source in sources}
    is_little = settings.total_tokens() <= QUICK_TOKENS or kinds == {"files"}
    return "hub" not in kinds and is_little and files <= QUICK_BYTES


def _one_window(settings: PretrainSettings) -> PretrainSettings:
    """Return settings that need a window of each source and nothing else."""
    return replace(
        settings, budget="steps", num_steps=1, batch_size=1, validation_windows=1, max_epochs=1e6
    )


def _is_whole(folder: Path) -> bool:
    return (folder / "manifest.json").is_file()


def _window(source: SourceWindows, planned: PlannedStage) -> Window:
    ids = source.shards[0][0].tolist()
    text = planned.tokenizer.decode(ids, skip_special_tokens=False)
    return Window(planned.stage.name, source.label, text, len(ids))


@dataclass(frozen=True)
class _Amount:
    """Windows that a stage takes of one source, and about how many there are (None: unknown)."""

    label: str
    needed: int
    available: float | None

    @property
    def epochs(self) -> float:
        return self.needed / max(1.0, self.available) if self.available is not None else 0.0


def _amounts(
    sources: tuple[Source, ...], settings: PretrainSettings, seed: int, planned: PlannedStage
) -> list[_Amount]:
    total = settings.total_steps() * settings.batch_size
    weights = tuple(source.weight for source in sources)
    needed = make_mixture(weights, seed).windows_before(total)
    encoder = DocumentEncoder(planned.tokenizer, planned.end_token)
    amounts = []
    for source, count in zip(sources, needed, strict=True):
        tokens = estimate_tokens(source, encoder)
        training = None if tokens is None else tokens * (1 - 1 / HELD_OUT_SHARE)
        available = None if training is None else training / (WINDOW_TOKENS - 1)
        amounts.append(_Amount(source.describe(), count, available))
    return amounts


def _amount_problems(
    stage: str, amounts: list[_Amount], settings: PretrainSettings
) -> Iterator[Problem]:
    """Yield which sources are too short, as far as an estimate can tell."""
    limit = settings.max_epochs
    for amount in amounts:
        if amount.epochs <= ONCE:
            continue
        message = (
            f"{amount.label} holds about {(amount.available or 0) * WINDOW_TOKENS:,.0f} tokens, so "
            f"this stage reads it about {amount.epochs:.1f} times; at most {limit:g} is allowed."
        )
        level = WARNING if amount.epochs > limit / UNSURE else NOTE
        level = ERROR if amount.epochs > limit * UNSURE else level
        mend = "Give more text, train on fewer tokens, or raise max_epochs."
        yield Problem(stage, level, DATA, message, mend if level != NOTE else "")


def _predict_bytes(
    amounts: list[_Amount], settings: PretrainSettings, planned: PlannedStage
) -> int:
    """Return the bytes of all windows: each is on the disk once, however often it is read."""
    size = token_dtype(planned.tokenizer, planned.end_token).itemsize
    stored = sum(min(amount.needed, amount.available or amount.needed) for amount in amounts)
    stored += max(settings.validation_windows, len(amounts))  # held out, one of each at least
    return int(stored * WINDOW_TOKENS * size)
