"""What a run leaves on disk: its checkpoints, the models to hold them against, and its size.

Everything that is not written in this file is escaped. Knows no Gradio and changes nothing.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stentor.errors import ModelError, OptionError
from stentor.loading import read_json
from stentor.models import MODELS, RUN_PREFIX
from stentor.runs import Run, current_status, list_checkpoints, list_runs, open_run, read_recipe
from stentor.ui.shared import escape, file_size, number
from stentor.ui.train_actions import check_name
from stentor.ui.train_allowed import must_be_allowed
from training.recipe import Recipe, recipe_from_json

TRAINER_FILE = "trainer.json"
MAX_OTHER_RUNS = 30
NOTHING_YET = "<h4>Checkpoints</h4><p class='soft'>None yet; the first stage writes one.</p>"


@dataclass(frozen=True)
class Kept:
    """One complete checkpoint; `loss` is the validation loss measured at its own step, or NaN."""

    name: str
    stage: str
    step: int
    num_bytes: int
    loss: float

    @classmethod
    def read(cls, folder: Path) -> "Kept":
        """Return what a checkpoint folder says of itself."""
        stage, _, step = folder.name.rpartition("-")
        loss = math.nan
        with suppress(ModelError):
            told = read_json(folder / TRAINER_FILE).get("validation_loss")
            loss = told if isinstance(told, float) else math.nan
        return cls(folder.name, stage, int(step), size_of(folder), loss)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; what is deleted meanwhile counts nothing."""
    return sum(_sizes(folder))


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                yield (Path(parent) / name).stat().st_size


def panel(run: Run, recipe: Recipe) -> str:
    """Return the checkpoints of a run, newest first, each with its figures and its button."""
    kept = [Kept.read(folder) for folder in list_checkpoints(run)]
    if not kept:
        return NOTHING_YET
    titles = {stage.name: stage.title for stage in recipe.stages}
    best = _best_of_stages(kept)
    items = "".join(_item(run, item, titles, item.name in best) for item in reversed(kept))
    total = file_size(sum(item.num_bytes for item in kept))
    return (
        f'<h4>Checkpoints <span class="soft">{len(kept)}, {total}</span></h4><ul tabindex="0" '
        f'class="checkpoints" data-key="kept" aria-label="Checkpoints">{items}</ul>'
    )


def _best_of_stages(kept: Sequence[Kept]) -> set[str]:
    """Return the checkpoint with the lowest validation loss of each stage that has several."""
    best: set[str] = set()
    for stage in {item.stage for item in kept}:
        measured = [item for item in kept if item.stage == stage and math.isfinite(item.loss)]
        if len(measured) > 1:
            best.add(min(measured, key=lambda item: (item.loss, item.step)).name)
    return best


def _item(run: Run, item: Kept, titles: dict[str, str], is_best: bool) -> str:
    title = titles.get(item.stage, item.stage)
    loss = f"val. loss {number(item.loss)}" if math.isfinite(item.loss) else f"step {item.step:,}"
    best = '<span class="pill best" title="Lowest of its stage">best</span>' if is_best else ""
    told = f"{loss}, {file_size(item.num_bytes)}"
    return (
        f'<li><div><code title="{escape(title)}, step {item.step:,}">{escape(item.name)}</code>'
        f'{best}<span class="soft">{told}</span></div>'
        f'<button type="button" class="plain-button" data-key="{escape(item.name)}" '
        f'data-action="open" data-reference="{RUN_PREFIX}{escape(run.id)}/{escape(item.name)}">'
        f'Open in Compare<span class="visually-hidden"> {escape(item.name)}</span></button></li>'
    )


def opponents(run_id: object, refusal: str | None) -> str:
    """Return the models that a checkpoint may be held against, as groups of options.

    First the model that the run started from. Under a `refusal` strangers are watching: a folder
    of this machine is then not named.
    """
    run = open_run(check_name(run_id, "run"))
    start = recipe_from_json(read_recipe(run)).start
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    if start and (start in MODELS or start.startswith(RUN_PREFIX) or not refusal):
        name = MODELS[start].title if start in MODELS else start.rstrip("/").rsplit("/", 1)[-1]
        groups.append(("Start of this run", [(start, name)]))
    groups.append(("Models", [(s.name, s.title) for s in MODELS.values() if s.name != start]))
    groups.append(("Checkpoints of this run", _references(run, list_checkpoints(run)[::-1])))
    others = [
        reference
        for other in list_runs()[:MAX_OTHER_RUNS]
        if other.id != run.id
        for reference in _references(other, list_checkpoints(other)[-1:], f"{other.id} ")
    ]
    groups.append(("Last checkpoints of other runs", others))
    return "".join(
        f'<optgroup label="{escape(title)}">{_options(members)}</optgroup>'
        for title, members in groups
        if members
    )


def _references(run: Run, folders: Sequence[Path], prefix: str = "") -> list[tuple[str, str]]:
    return [(f"{RUN_PREFIX}{run.id}/{path.name}", f"{prefix}{path.name}") for path in folders]


def _options(members: Sequence[tuple[str, str]]) -> str:
    return "".join(
        f'<option value="{escape(value)}">{escape(title)}</option>' for value, title in members
    )


def opponent_of(run_id: object, value: object) -> str | None:
    """Return the model chosen to stand on the left, or None: as it is.

    Raises:
        OptionError: a text that the menu never offered.
    """
    chosen = check_name(value or "", "model")
    if not chosen:
        return None
    if chosen in MODELS or chosen.startswith(RUN_PREFIX):
        return chosen
    run = open_run(check_name(run_id, "run"))
    if chosen != recipe_from_json(read_recipe(run)).start:
        raise OptionError(f"{chosen!r:.80} is none of the models in the menu.")
    return chosen


def describe_for_deletion(run_id: object, refusal: str | None) -> dict[str, str]:
    """Return what the question before a deletion says: the run's name and what would be lost.

    Raises:
        RunError: nothing may be deleted here, or there is no such run.
    """
    must_be_allowed(refusal)
    run = open_run(check_name(run_id, "run"))
    num_kept = len(list_checkpoints(run))
    count = f"{num_kept or 'no'} {'checkpoints' if num_kept > 1 else 'checkpoint'}"
    state = "" if current_status(run).state == "finished" else " It is not finished."
    return {
        "name": run.id,
        "text": f"{file_size(size_of(run.folder))} with {count}, its curves, samples and log are "
        f"removed from the disk for good.{state}",
    }
