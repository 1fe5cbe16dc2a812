"""Every problem at once, before a run starts: text, models, rates, devices, room."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from tiny_recipe import tiny_recipe

from stentor.errors import DataError
from stentor.gpus import Gpu, GpuProcess
from stentor.loading import open_checkpoint_folder
from training.data import prepare_stage_data
from training.preflight import checks, room, text
from training.preflight.checks import preflight
from training.preflight.report import Problem, Report
from training.preflight.stages import planning_context
from training.preflight.text import unreadable
from training.recipe import Recipe, Stage, with_settings
from training.settings import CreateSettings, PretrainSettings, Source
from training.shards import open_source
from training.sources import silent

GB = 10**9


def look(recipe: Recipe) -> Report:
    return preflight(recipe, lambda _: None).report


def problems(recipe: Recipe, what: str) -> list[Problem]:
    return [problem for problem in look(recipe).problems if problem.what == what]


@pytest.fixture
def recipe(tiny_model_folder: Path) -> Recipe:
    return tiny_recipe(tiny_model_folder)


def with_files(recipe: Recipe, *paths: Path, stage: str = "general", **values: object) -> Recipe:
    source = Source(kind="files", paths=tuple(map(str, paths)))
    return with_settings(recipe, stage, sources=(source,), **values)


def test_a_sound_recipe_has_no_problems_and_shows_what_it_will_read(
    recipe: Recipe, stentor_home: Path
) -> None:
    report = look(recipe)
    assert report.problems == () and not report.has_errors
    assert [(window.stage, window.num_tokens) for window in report.windows] == [
        ("general", 512),
        ("story", 512),
    ]
    assert "is a town of about" in report.windows[0].text
    assert [(stage.name, stage.steps, stage.tokens) for stage in report.stages] == [
        ("expand", 0, 0),
        ("general", 12, 12 * 4 * 512),
        ("story", 12, 12 * 4 * 512),
    ]
    assert report.total is None and report.machine["num_processes"] == 1
    assert not stentor_home.exists() or not list(stentor_home.iterdir()), "nothing is left"


@pytest.mark.parametrize("is_quick", [True, False])
def test_the_window_shown_is_the_first_that_the_run_packs(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_quick: bool
) -> None:
    """A window made for show once came from the beginning of a file that the run shuffles."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(90):
        content = f"Letter {number}: the mill, the river and the rain of day {number}. " * 40
        (folder / f"{number:02}.txt").write_text(content)
    recipe = with_files(recipe, folder)
    monkeypatch.setattr(text, "QUICK_BYTES", 10**9 if is_quick else 0)
    (shown,) = [window for window in look(recipe).windows if window.stage == "general"]

    stage = recipe.stages[1]
    settings = stage.settings
    assert isinstance(settings, PretrainSettings) and recipe.start is not None
    model = open_checkpoint_folder(Path(recipe.start))
    data, seed = tmp_path / "data", planning_context(recipe).seed_of(stage)
    prepare_stage_data(settings.sources, model.tokenizer, 0, settings, data, seed, silent)
    (source,) = [path for path in data.iterdir() if path.is_dir()]
    ids = open_source(source).shards[0][0].tolist()
    assert shown.text == model.tokenizer.decode(ids, skip_special_tokens=False)
    assert "<|end|>" in shown.text


def test_all_problems_are_told_at_once(recipe: Recipe, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"body": "A letter."}) + "\n")
    recipe = with_files(recipe, tmp_path / "gone.txt")
    recipe = with_files(recipe, rows, stage="story", learning_rate=0.5)
    recipe = replace(recipe, devices="7", num_processes=9)
    report = look(recipe)
    told = {(problem.stage, problem.what) for problem in report.problems}
    assert {("general", "data"), ("story", "data"), ("story", "learning rate")} <= told
    assert {(None, "gpu"), (None, "recipe")} & told
    text_of = " ".join(problem.message for problem in report.problems)
    assert "gone.txt does not exist" in text_of
    assert "rows.jsonl, line 1: no text under 'text'; it has: body" in text_of
    assert "There is no GPU 7 on this machine; there is: none." in text_of
    assert report.has_errors and report.problems[0].level == "error"


def test_a_dataset_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection through a bad proxy neither answers nor ends."""
    monkeypatch.setattr(text, "HUB_SECONDS", 0.05)
    ended = Event()
    with pytest.raises(DataError, match="letters has not answered for"):
        text.within_time(lambda: ended.wait(60), Source(kind="hub", name="someone/letters"))
    ended.set()
    assert text.within_time(lambda: "row", Source()) == "row"


def test_too_little_text_is_found_by_the_rule_of_the_run(recipe: Recipe, tmp_path: Path) -> None:
    letters = tmp_path / "letters.txt"
    letters.write_text("The miller counts the sacks of grain. " * 200)
    (problem,) = problems(with_files(recipe, letters), "data")
    assert problem.level == "error" and "would be read" in problem.message
    assert "raise max_epochs" in problem.message
    assert problems(with_files(recipe, letters, max_epochs=50.0), "data") == []


def test_a_pair_that_nothing_could_be_measured_on_is_found(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("A few words.\n", encoding="utf-8")
    stages = recipe.stages
    base = replace(stages[1], name="base")
    paired = replace(recipe, stages=(base, *stages), pair=("base", "story"))
    (without_files,) = unreadable(paired)
    assert "reads none" in without_files.message
    (too_few,) = unreadable(with_files(paired, tmp_path / "few.txt"))
    assert "0 bytes are held out" in too_few.message


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".txt", lambda words: words),
        (".jsonl", lambda words: "\n".join([json.dumps({"text": words[:900]})] * 44)),
    ],
)
def test_the_amount_of_a_large_text_is_estimated(
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    content: Callable[[str], str],
) -> None:
    letters = tmp_path / f"letters{suffix}"
    letters.write_text(content("The miller counts the sacks of grain. " * 1050))
    exact = with_files(recipe, letters, num_steps=1000)
    (told,) = problems(exact, "data")
    monkeypatch.setattr(text, "QUICK_BYTES", 0)
    (problem,) = problems(exact, "data")
    assert problem.level == "error" and problem.mend.startswith("Give more text")
    real = float(told.message.split("would be read ")[1].split()[0])
    estimated = float(problem.message.split("reads it about ")[1].split()[0])
    assert estimated == pytest.approx(real, rel=0.15)
    (near,) = problems(with_files(exact, letters, num_steps=1000, max_epochs=real), "data")
    assert near.level == "warning", "an estimate forbids nothing that may just be allowed"
    (note,) = problems(with_files(exact, letters, num_steps=1000, max_epochs=9999.0), "data")
    assert (note.level, note.mend) == ("note", "")


def test_a_new_model_is_looked_at_with_a_tokenizer_of_its_own(recipe: Recipe) -> None:
    settings = CreateSettings(vocab_size=400, hidden_size=32, intermediate_size=64, num_heads=2)
    create = Stage("create", "create", "Begin", settings)
    new = replace(recipe, start=None, stages=(create, *recipe.stages[1:]))
    report = look(new)
    assert report.problems == () and "town" in report.windows[0].text
    twice = replace(recipe, stages=(*recipe.stages, create))
    (problem,) = problems(twice, "tokenizer")
    assert (problem.stage, problem.level) == ("create", "error") and "lost" in problem.message


def test_a_start_model_that_is_not_there_or_not_whole(recipe: Recipe, tmp_path: Path) -> None:
    (problem,) = problems(replace(recipe, start="stentor-30m"), "recipe")
    assert "not on this machine yet" in problem.message
    folder = tmp_path / "model"
    assert recipe.start is not None
    shutil.copytree(recipe.start, folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["model"]["vocab"]["beyond"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(values))
    (problem,) = problems(replace(recipe, start=str(folder)), "tokenizer")
    assert problem.level == "error" and "token ids up to 400, the model 320" in problem.message


def test_growth_that_is_not_possible_or_has_rows_to_spare(recipe: Recipe) -> None:
    (problem,) = problems(with_settings(recipe, "expand", num_layers=1), "recipe")
    assert problem.stage == "expand" and "num_layers 1 is below 2" in problem.message
    (problem,) = problems(with_settings(recipe, "expand", vocab_size=330), "tokenizer")
    assert problem.level == "warning" and "10 rows are never used" in problem.message


def gpu(index: int, *processes: GpuProcess) -> Gpu:
    return Gpu(
        index=index,
        name="RTX 4090",
        uuid=None,
        total_bytes=24 * GB,
        memory_bytes=20 * GB,
        utilisation=97.0,
        power_watts=300.0,
        power_limit_watts=450.0,
        temperature=70.0,
        throttle=(),
        processes=processes,
    )


def test_a_busy_gpu_is_named_with_who_is_on_it(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = [gpu(0, GpuProcess(4711, 20 * GB)), gpu(1, GpuProcess(4712, None))]
    monkeypatch.setattr(checks, "read_gpus", lambda: gpus)
    first, second = problems(recipe, "gpu")
    assert (
        first.level == "warning"
        and "process 4711, which holds 20.00 GB of its 24.0 GB" in first.message
    )
    assert "an unknown part" in second.message
    (problem,) = problems(replace(recipe, devices="0,2"), "gpu")[:1]
    assert problem.level == "error"
    assert "no GPU 2" in problem.message and "1 (RTX 4090)" in problem.message


def test_memory_that_is_not_there_or_not_free(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "free_memory", lambda: 1000)
    found = problems(recipe, "memory")
    assert [(p.stage, p.level) for p in found] == [("general", "warning"), ("story", "warning")]
    monkeypatch.setattr(room, "memory_limit", lambda _: 2000)
    found = problems(recipe, "memory")
    assert {problem.level for problem in found} == {"error"} and "micro_batch" in found[0].mend


def test_a_disk_that_is_too_small(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    (problem,) = problems(recipe, "disk")
    assert problem.level == "error" and "0.00 GB free" in problem.message
    usage.free = 8_000_000
    monkeypatch.setattr(room, "DISK_RESERVE", 100.0)
    (problem,) = problems(recipe, "disk")
    assert problem.level == "warning" and "keep_last" in problem.mend


def test_a_home_that_cannot_hold_runs(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")
    monkeypatch.setenv("STENTOR_HOME", str(in_the_way))
    (problem,) = problems(recipe, "output")
    assert problem.level == "error" and str(in_the_way) in problem.message


def test_batches_that_processes_cannot_share_evenly(recipe: Recipe) -> None:
    recipe = with_settings(recipe, "general", batch_size=5)
    recipe = with_settings(recipe, "story", batch_size=9, micro_batch_size=2)
    found = problems(replace(recipe, num_processes=2), "recipe")
    assert [(p.stage, p.level) for p in found] == [("general", "note"), ("story", "note")]
    assert "do not divide by 2 processes" in found[0].message
    (problem,) = [p for p in problems(replace(recipe, num_processes=9), "recipe") if not p.stage]
    assert problem.level == "error" and "cannot share the 5 window(s)" in problem.message


def test_a_public_space_never_trains(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/playground")
    (problem,) = problems(recipe, "recipe")
    assert problem.level == "error" and "public Space" in problem.message
