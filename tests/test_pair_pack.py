"""A real run that ends with a pair: killed while it packs, resumed, and packed as if it were not.

The run of this file is made once.
"""

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import torch
from pair_run import pair_recipe, write_texts
from safetensors.torch import load_file
from tiny_recipe import PATIENCE_SECONDS, create, run_to_its_end

from stentor.errors import DataError, ModelError
from stentor.jobs import start, wait_until_ended
from stentor.loading import open_checkpoint_folder
from stentor.runs import (
    Run,
    current_status,
    list_checkpoints,
    read_events,
    tail_log,
)
from training.pair.manifest import MANIFEST_FILE, RECIPE_FILE, check_manifest
from training.pair.measure import held_out_windows, measure_texts
from training.pair.pack import BASE, BIG, PAIR_FOLDER, members_of, pack_pair
from training.pair.repetition import VARIANTS
from training.recipe import Recipe, recipe_from_json
from training.recorder import Recorder
from training.runner import execute
from training.stages.context import StageContext
from training.workers import Workers

pytestmark = pytest.mark.usefixtures("old_signals")

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "README.md",
    "trainer.json",
}


@dataclass(frozen=True)
class Packed:
    """A finished run with its pair, and how it was found after the kill."""

    run: Run
    recipe: Recipe
    was_killed_at: str
    left_after_kill: set[str]
    checkpoints_after_kill: list[Path]

    @property
    def folder(self) -> Path:
        return self.run.folder / PAIR_FOLDER


@pytest.fixture(scope="module")
def packed(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packed]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPACE_ID", raising=False)
        recipe = pair_recipe(tiny_model_folder, write_texts(tmp_path_factory.mktemp("text")))
        run = create(recipe)
        start(run)
        wait_for_packing(run, "Measuring general")
        pid = current_status(run).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert wait_until_ended(run, PATIENCE_SECONDS)
        names = {path.name for path in run.folder.iterdir()}
        found = (current_status(run).state, names, list_checkpoints(run))
        assert run_to_its_end(run, "resume") == "finished", tail_log(run)
        yield Packed(run, recipe, *found)


def wait_for_packing(run: Run, message: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(str(event.get("message", "")).startswith(message) for event in read_events(run)):
        assert time.monotonic() < deadline, tail_log(run)
        time.sleep(0.005)


def stop_when_it_packs(run: Run) -> None:
    wait_for_packing(run, "Packing")
    run.stop_file.touch()


def manifest_of(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / MANIFEST_FILE).read_text())
    return values


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.folder, folder / run.id)
    return Run(folder / run.id)


def context_of(run: Run, recipe: Recipe) -> StageContext:
    return StageContext(run, recipe, Recorder(run), Workers(torch.device("cpu")))


def test_a_kill_while_it_packs_is_mended_by_a_resume(packed: Packed) -> None:
    """Every stage was finished, yet the run is not: what was half packed is packed again."""
    assert packed.was_killed_at == "died"
    assert PAIR_FOLDER not in packed.left_after_kill
    assert f".{PAIR_FOLDER}.partial" in packed.left_after_kill
    assert list_checkpoints(packed.run) == packed.checkpoints_after_kill
    started = Counter(e["stage"] for e in read_events(packed.run) if e["kind"] == "stage_started")
    assert set(started.values()) == {1}, "nothing was trained again"
    names = {path.name for path in packed.run.folder.iterdir()}
    assert PAIR_FOLDER in names and not any(name.startswith(f".{PAIR_FOLDER}") for name in names)
    assert check_manifest(packed.folder) == []


def test_a_pair_is_two_model_folders_of_half_precision(packed: Packed) -> None:
    names = {path.name for path in packed.folder.iterdir()}
    assert names == {BASE, BIG, MANIFEST_FILE, RECIPE_FILE}
    assert {path.name for path in (packed.folder / BASE).iterdir()} == FILES
    assert {path.name for path in (packed.folder / BIG).iterdir()} == {*FILES, "growth.json"}
    sizes = {name: open_checkpoint_folder(packed.folder / name).shape for name in (BASE, BIG)}
    assert (sizes[BASE].hidden_size, sizes[BIG].hidden_size) == (32, 64)
    for name, checkpoint in ((BASE, "base-000002"), (BIG, "story-000002")):
        stored = load_file(packed.folder / name / "model.safetensors")
        trained = load_file(packed.run.checkpoints_folder / checkpoint / "model.safetensors")
        for key, tensor in trained.items():
            assert torch.equal(stored[key], tensor.half()), key


def test_the_manifest_names_files_recipe_and_figures_and_no_folder_of_this_machine(
    packed: Packed,
) -> None:
    values = manifest_of(packed.folder)
    text = (packed.folder / MANIFEST_FILE).read_text()
    trainer = (packed.folder / BIG / "trainer.json").read_text()
    for source in (stage.settings for stage in packed.recipe.stages):
        for item in getattr(source, "sources", ()):
            assert str(Path(item.paths[0]).parent) not in text + trainer
    assert str(Path(str(packed.recipe.start)).parent) not in text
    recipe = recipe_from_json(values["recipe"])  # type: ignore[arg-type]
    assert recipe.pair == ("base", "story")
    assert getattr(recipe.stages[3].settings, "sources")[0].paths == ("stage_story.jsonl",)  # noqa: B009
    assert (values["run"], values["command"]) == (
        packed.run.id,
        "python -m training run recipe.json --corpora DIR",
    )
    assert set(values["text_digests"]) == {"base", "general", "story"}  # type: ignore[call-overload]
    checkpoints: list[dict[str, object]] = values["checkpoints"]  # type: ignore[assignment]
    assert [item["name"] for item in checkpoints] == ["base", "grown", "general", "story"]
    step = 4 * 512
    assert [item["tokens"] for item in checkpoints] == [2 * step, step, 3 * step, 5 * step]
    assert checkpoints[0]["parameters"] != checkpoints[1]["parameters"]
    for item in checkpoints:
        for kind in ("bits_per_byte", "loss"):
            assert set(item[kind]) == {"general", "story"}  # type: ignore[call-overload]
    repetition: dict[str, dict[str, float]] = values["repetition"]  # type: ignore[assignment]
    assert {name: set(shares) for name, shares in repetition.items()} == {
        BASE: set(VARIANTS),
        BIG: set(VARIANTS),
    }
    assert all(0 <= share <= 1 for shares in repetition.values() for share in shares.values())


def test_figures_are_of_the_rounded_weights_on_held_out_documents(packed: Packed) -> None:
    values = manifest_of(packed.folder)
    model = open_checkpoint_folder(packed.folder / BIG)
    source = packed.recipe.stages[3].settings.sources[0]  # type: ignore[union-attr]
    text = held_out_windows((source,), model.tokenizer, 0, 256)
    loss = measure_texts(model, {"story": text}, torch.device("cpu"))["story"]
    told = values["checkpoints"][-1]  # type: ignore[index]
    assert told["loss"]["story"] == pytest.approx(loss.loss, rel=1e-6)
    assert told["bits_per_byte"]["story"] == pytest.approx(loss.bits_per_byte, rel=1e-6)
    branch = open_checkpoint_folder(packed.run.checkpoints_folder / "base-000001")
    loss = measure_texts(branch, {"story": text}, torch.device("cpu"))["story"]
    grown, base = (values["checkpoints"][place]["loss"]["story"] for place in (1, 0))  # type: ignore[index]
    assert grown == pytest.approx(loss.loss, rel=1e-4) and grown != base, "the growth is exact"
    assert values["held_out"]["story"] == {  # type: ignore[index]
        "documents": text.num_documents,
        "windows": len(text.windows),
        "bytes": text.num_bytes,
    }


def test_the_cards_tell_what_was_measured(packed: Packed) -> None:
    values = manifest_of(packed.folder)
    base = (packed.folder / BASE / "README.md").read_text()
    big = (packed.folder / BIG / "README.md").read_text()
    assert base.startswith("---\nlanguage: en\nlicense: other\n"), "nobody knows the text's licence"
    assert "# Stentor demo base" in base and "# Stentor demo big" in big
    for card in (base, big):
        for item in values["checkpoints"]:  # type: ignore[attr-defined]
            assert f"| {item['name']} | {item['parameters']:,} | {item['tokens']:,} | " in card
            assert f"{item['bits_per_byte']['story']:.3f} ({item['loss']['story']:.3f})" in card
        for name, shares in values["repetition"].items():  # type: ignore[attr-defined]
            row = " | ".join([name, *(f"{shares[variant]:.0%}" for variant in VARIANTS)])
            assert f"| {row} |" in card
        assert "| story | not stated by whoever trained it |" in card and "SOURCES.md" not in card
        assert "no facts to rely on" in card and "It stands in for" not in card
        assert str(packed.run.folder.parent) not in card
    assert "zero\\_pad in width" in big and "zero\\_pad" not in base
    assert "against the base: general" in big and "against the base" not in base
    assert "the same model at step 1 of 2, before its learning rate decayed" in big


def test_a_changed_byte_is_found(packed: Packed, tmp_path: Path) -> None:
    folder = tmp_path / "pair"
    shutil.copytree(packed.folder, folder)
    (folder / "SOURCES.md").write_text("Beside a pair there may be more.")
    assert check_manifest(folder) == []
    weights = folder / BIG / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (folder / BASE / "config.json").unlink()
    (folder / BASE / "optimizer.safetensors").write_bytes(b"")
    (folder / BIG / "README.md").write_text("Short.")
    problems = "\n".join(check_manifest(folder))
    assert problems.count("\n") == 3
    assert f"{BASE}/optimizer.safetensors is not in the manifest." in problems
    assert f"{BASE}/config.json is missing." in problems
    assert f"{BIG}/README.md has 6 bytes; the manifest says " in problems
    assert f"{BIG}/model.safetensors is not what was packed: its SHA-256 is " in problems
    (folder / MANIFEST_FILE).write_text('{"files": []}')
    assert f"{MANIFEST_FILE} cannot be read" in check_manifest(folder)[0]


def test_a_stop_while_it_packs_ends_the_run_and_a_resume_packs_the_same_bytes(
    packed: Packed, tmp_path: Path
) -> None:
    run = copy_of(packed.run, tmp_path)
    shutil.rmtree(run.folder / PAIR_FOLDER)
    events = [line for line in run.events_file.read_text().splitlines() if '"packing"' not in line]
    run.events_file.write_text("\n".join([*events, ""]))
    watch = Thread(target=stop_when_it_packs, args=(run,))
    watch.start()
    assert execute(run) == 0
    watch.join()
    assert current_status(run).state == "stopped"
    assert not list(run.folder.glob(f"*{PAIR_FOLDER}*"))
    assert execute(run) == 0
    assert current_status(run).state == "finished"
    assert manifest_of(run.folder / PAIR_FOLDER)["files"] == manifest_of(packed.folder)["files"]


def test_a_stop_leaves_the_pair_that_is_there_and_nothing_half_done(
    packed: Packed, tmp_path: Path
) -> None:
    run = copy_of(packed.run, tmp_path)
    before = manifest_of(run.folder / PAIR_FOLDER)
    run.stop_file.touch()
    assert not pack_pair(context_of(run, packed.recipe))
    assert manifest_of(run.folder / PAIR_FOLDER) == before
    assert not list(run.folder.glob(f".{PAIR_FOLDER}*"))


def test_documents_that_a_stage_trained_on_are_no_held_out_text(
    packed: Packed, tmp_path: Path
) -> None:
    """Of a text too short for whole documents, a stage trains on those that others hold out."""
    run = copy_of(packed.run, tmp_path)
    (source,) = (run.data_folder / "general").glob("*/manifest.json")
    source.write_text(source.read_text().replace('"documents"', '"windows"'))
    with pytest.raises(DataError, match="text of stage general is too short to hold whole"):
        pack_pair(context_of(run, packed.recipe))
    shutil.rmtree(run.data_folder / "general")
    with pytest.raises(DataError, match=r"empty `pair` in its recipe\.json and resume"):
        pack_pair(context_of(run, packed.recipe))


def damage(run: Run, checkpoint: str) -> None:
    weights = run.checkpoints_folder / checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")


def test_a_pair_is_packed_without_the_figures_of_a_damaged_checkpoint(
    packed: Packed, tmp_path: Path
) -> None:
    run = copy_of(packed.run, tmp_path)
    damage(run, "general-000002")
    shutil.rmtree(run.checkpoints_folder / "expand-000000")
    assert pack_pair(context_of(run, packed.recipe))
    checkpoints: list[dict[str, object]] = manifest_of(run.folder / PAIR_FOLDER)["checkpoints"]  # type: ignore[assignment]
    assert [item["name"] for item in checkpoints] == ["base", "story"]
    warnings = [str(e["message"]) for e in read_events(run) if e["kind"] == "warning"]
    assert [text.rpartition(" of ")[2] for text in warnings[-2:]] == ["grown.", "general."]


def test_a_run_whose_base_is_damaged_stops_before_it_trains_on_for_hours(
    packed: Packed, tmp_path: Path
) -> None:
    """The trainer once went on from a later stage, and found out when all was done."""
    run = copy_of(packed.run, tmp_path)
    damage(run, "base-000002")
    with pytest.raises(ModelError, match="is not what was written"):
        pack_pair(context_of(run, packed.recipe))
    assert not list(run.folder.glob(f".{PAIR_FOLDER}*"))
    shutil.rmtree(run.checkpoints_folder / "story-000002")
    assert execute(run) == 2
    status = current_status(run)
    assert "is not what was written" in str(status.error)
    assert "empty `pair` in its recipe.json" in str(status.error)
    assert not (run.checkpoints_folder / "story-000002").exists(), "nothing was trained"


def test_members_are_named_by_what_they_are(packed: Packed) -> None:
    found = [(item.name, item.stage.name, item.packed) for item in members_of(packed.recipe)]
    assert found == [
        ("base", "base", BASE),
        ("grown", "expand", None),
        ("general", "general", None),
        ("story", "story", BIG),
    ]
