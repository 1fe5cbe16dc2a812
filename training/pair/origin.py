"""Where a packed pair comes from: recipe, run, versions, machines, and the text by its digests."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stentor.errors import DataError
from stentor.loading import read_json
from stentor.runs import read_events
from training.checkpoint import GROWTH_FILE
from training.integrity import TRAINER_FILE
from training.pair.measure import check_apart
from training.recipe import Recipe
from training.settings import PretrainSettings
from training.stage_data import open_stage_data
from training.stages.context import StageContext

NO_PAIR = (
    "Start a new run for a pair; to end this one without, empty `pair` in its recipe.json and "
    "resume."
)


@dataclass(frozen=True)
class Origin:
    """Where a pair comes from. `machine` is in words; the rest by the names of the stages.

    `growths`: the reports of those that grew the model. `text_digests`: of the windows of those
    that trained it, and of their order.
    """

    recipe: Recipe
    run: str
    versions: Mapping[str, str]
    machine: str
    growths: Mapping[str, Mapping[str, Any]]
    text_digests: Mapping[str, str]


def origin_of(context: StageContext) -> Origin:
    """Return where the pair of a finished run comes from.

    Raises:
        DataError: the windows of a stage are gone, or are of documents that are held out elsewhere.
    """
    trained = {stage.name: context.final_folder(stage) for stage in context.recipe.stages}
    big = trained[context.recipe.pair[1]]
    reports = {name: folder / GROWTH_FILE for name, folder in trained.items()}
    return Origin(
        recipe=context.recipe,
        run=context.run.id,
        versions=read_json(big / TRAINER_FILE)["versions"],
        machine="; ".join(_machines(context)) or "not known",
        growths={name: read_json(path) for name, path in reports.items() if path.is_file()},
        text_digests=_text_digests(context),
    )


def _machines(context: StageContext) -> list[str]:
    """Return, in words, each machine that took a step: not one that only packed."""
    words, found = "", []
    for event in read_events(context.run):
        if event["kind"] == "machine":
            processes = _processes(event.get("num_workers", 1))
            words = f"{event.get('name')}, {event.get('num_cores')} cores, {processes}"
        elif event["kind"] == "metrics" and words and words not in found:
            found.append(words)
    return found


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _text_digests(context: StageContext) -> dict[str, str]:
    """Return, by stage, the digest of the windows and their order that it was trained on.

    Raises:
        DataError: they are gone, or a stage trained on documents that are held out elsewhere.
    """
    digests = {}
    for stage in context.recipe.stages:
        if not isinstance(stage.settings, PretrainSettings):
            continue
        try:
            data = open_stage_data(context.run.data_folder / stage.name, context.seed_of(stage))
        except DataError as error:
            raise DataError(f"{error} {NO_PAIR}") from error
        check_apart(stage.name, data.held_out_by)
        digests[stage.name] = data.fingerprint
    return digests
