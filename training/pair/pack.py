"""Packs the two models of a run as a pair, with figures, cards and a manifest: RUN/pair/.

    demo-base/ demo-big/   a model folder each, in fp16, as in assets/models/
    manifest.json          hashes, recipe and figures; see manifest.py

Everything is written to a hidden folder beside and renamed when it is complete. Nothing of a
packing that was stopped or killed is kept: it is minutes of work, and done again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stentor.errors import ModelError
from stentor.loading import Checkpoint, open_checkpoint_folder, read_json
from stentor.prompts import ALL, prompts_of
from stentor.store import ModelStore
from training.checkpoint import end_token_of, open_sound, remove_checkpoint
from training.disk import flush_files, flush_names, writing
from training.integrity import TRAINER_FILE
from training.pair.card import write_card
from training.pair.manifest import CheckpointFigures, PairFigures, write_manifest
from training.pair.measure import (
    PAIR_WINDOWS,
    WindowedText,
    held_out_windows,
    measure_texts,
    text_sources,
)
from training.pair.origin import NO_PAIR, Origin, origin_of
from training.pair.repetition import repetition_shares
from training.recipe import Recipe, Stage
from training.single import export_checkpoint
from training.stages.context import StageContext

PAIR_FOLDER = "pair"
PREFIX = "demo"
BASE, BIG = f"{PREFIX}-base", f"{PREFIX}-big"
DTYPE = "float16"
# What of a checkpoint's trainer.json goes with the packed model; the rest names folders of the
# machine, or is for going on with the training.
KEPT_DETAILS = (
    "run",
    "recipe",
    "seed",
    "stage",
    "step",
    "tokens",
    "versions",
    "is_final",
    "loss",
    "validation_loss",
)


class _StopPacking(Exception):  # noqa: N818 - a wish, not an error
    """A stop was asked for while the pair is packed."""


@dataclass(frozen=True)
class Member:
    """A stage whose final checkpoint is measured. `packed`: its folder in the pair, if it has."""

    stage: Stage
    name: str
    packed: str | None


def pack_pair(context: StageContext) -> bool:
    """Write the pair of a run whose stages are all finished; for the main worker.

    Returns False where a stop was asked for on the way; what was written is deleted then.

    Raises:
        DataError: a text cannot be read any more, or `origin_of` says why.
        ModelError: a checkpoint of the run is missing or damaged.
        DiskError: there is no room.
    """
    final = context.run.folder / PAIR_FOLDER
    beside = final.with_name(f".{PAIR_FOLDER}.partial")
    try:
        with writing("The pair", context.run.folder, only_when_full=True):
            for left_by_a_kill in (beside, final.with_name(f".{PAIR_FOLDER}.deleted")):
                shutil.rmtree(left_by_a_kill, ignore_errors=True)
            beside.mkdir()
            _fill(beside, context)
            _put_in_place(beside, final)
    except _StopPacking:
        return False
    finally:  # a full disk needs the room to say so
        shutil.rmtree(beside, ignore_errors=True)
    context.recorder.say(f"The pair is packed in {final}")
    return True


def members_of(recipe: Recipe) -> tuple[Member, ...]:
    """Return the stages from the one of the base to the one of the grown model, with their names.

    The base is called base, a grown model before training grown where there is but one of them, any
    other by its stage.
    """
    names = [stage.name for stage in recipe.stages]
    first, last = (names.index(name) for name in recipe.pair)
    stages = recipe.stages[first : last + 1]
    grows_once = [stage.kind for stage in stages].count("expand") == 1
    members = []
    for stage in stages:
        name = "grown" if stage.kind == "expand" and grows_once else stage.name
        packed = {recipe.pair[0]: BASE, recipe.pair[1]: BIG}.get(stage.name)
        members.append(Member(stage, "base" if packed == BASE else name, packed))
    return tuple(members)


def _fill(folder: Path, context: StageContext) -> None:
    """Write everything, part by part."""
    members = _sound_members(context)
    origin = origin_of(context)
    _go_on(context, "Packing the pair: the two models")
    for member in members:
        if member.packed:
            _export(folder / member.packed, member, origin, context)
    texts = _held_out_texts(open_checkpoint_folder(folder / BASE), context)
    checkpoints = tuple(_measured(folder, member, texts, context) for member in members)
    repetition, engine = _repetition(folder, context)
    figures = PairFigures(checkpoints, repetition, texts, engine)
    for member in members:
        if member.packed:
            model = open_checkpoint_folder(folder / member.packed)
            text = write_card(model, member.packed, member.stage, figures, origin)
            (model.folder / "README.md").write_text(text, encoding="utf-8")
    write_manifest(folder, figures, origin)


def _sound_members(context: StageContext) -> list[Member]:
    """Return the members but those that are damaged and only were to be measured; tell of them.

    Raises:
        ModelError: a model that is to be packed is damaged.
    """
    members = []
    for member in members_of(context.recipe):
        try:
            open_sound(context.final_folder(member.stage), to_resume=False)
            members.append(member)
        except ModelError as error:
            if member.packed:
                raise ModelError(f"{error} {NO_PAIR}") from error
            context.recorder.warn(f"{error} The pair is packed without figures of {member.name}.")
    return members


def _go_on(context: StageContext, message: str) -> None:
    """Tell what is done next, which also shows that the run is alive; heed a stop.

    Raises:
        _StopPacking: a stop was asked for.
    """
    if context.recorder.stop_requested():
        raise _StopPacking
    context.recorder.event("packing", message=message)
    context.recorder.say(message)


def _export(output: Path, member: Member, origin: Origin, context: StageContext) -> None:
    """Write a packed model, without its card; with the last growth until it, where one was."""
    source = open_checkpoint_folder(context.final_folder(member.stage))
    known = read_json(source.folder / TRAINER_FILE)
    details: dict[str, Any] = {name: known[name] for name in KEPT_DETAILS if name in known}
    for stage in context.recipe.stages:
        if stage.name in origin.growths:
            details["growth"] = origin.growths[stage.name]
        if stage == member.stage:
            break
    export_checkpoint(source, output, DTYPE, details)


def _held_out_texts(model: Checkpoint, context: StageContext) -> dict[str, WindowedText]:
    texts = {}
    for name, source in text_sources(context.recipe).items():
        _go_on(context, f"Reading what is held out of {name}")
        texts[name] = held_out_windows(
            (source,), model.tokenizer, end_token_of(model), PAIR_WINDOWS
        )
    return texts


def _measured(
    folder: Path, member: Member, texts: dict[str, WindowedText], context: StageContext
) -> CheckpointFigures:
    """Measure one checkpoint; of a packed model the weights as they were rounded."""
    final = context.final_folder(member.stage)
    _go_on(context, f"Measuring {member.name} on held-out text")
    checkpoint = open_checkpoint_folder(folder / member.packed if member.packed else final)
    found = measure_texts(checkpoint, texts, context.device)
    figures = ", ".join(f"{name} {text.bits_per_byte:.4f}" for name, text in found.items())
    context.recorder.say(f"{member.name}: {figures} bits per byte")
    tokens = context.trained_tokens_at(member.stage, member.stage.total_steps())
    return CheckpointFigures(
        member.name, member.stage.name, checkpoint.num_parameters, tokens, found
    )


def _repetition(
    folder: Path, context: StageContext
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return the shares of both packed models, and the precision and device of the engine."""
    shares: dict[str, dict[str, float]] = {}
    engine: dict[str, str] = {}
    with ModelStore(context.recipe.num_threads) as store:
        for name in (BASE, BIG):
            _go_on(context, f"Continuing the prompts of the playground with {name}")
            shares[name] = repetition_shares(store, folder / name, prompts_of(ALL))
            used = store.load(str(folder / name)).engine
            engine = {"precision": used.precision, "device": used.device}
    return shares, engine


def _put_in_place(beside: Path, final: Path) -> None:
    """Rename what is complete, after it is safe on the disk; an earlier pair is moved away."""
    for path in beside.iterdir():
        if path.is_dir():
            flush_files(path)
    flush_files(beside)
    remove_checkpoint(final)
    beside.rename(final)
    flush_names(final.parent)
