"""References: what a user writes finds a model, or says what exists; nothing leaves a folder."""

import shutil
from pathlib import Path

import pytest

from stentor import models
from stentor.engine.sampling import SamplingSettings
from stentor.errors import ModelError, OptionError, RunError, StentorError
from stentor.home import runs_folder
from stentor.knobs import from_json
from stentor.models import MODELS, PAIRS, find_model, list_checkpoint_models
from stentor.runs import Run, create_run, list_checkpoints


@pytest.fixture
def run() -> Run:
    """Return a run with two complete checkpoints and one that is still being written."""
    run = create_run({"name": "practice"}, "practice")
    for name in ("expand-000000", "general-000024", "general-000048.partial"):
        (run.checkpoints_folder / name).mkdir()
    return run


def test_every_name_finds_its_model_and_every_pair_is_known() -> None:
    for name, spec in MODELS.items():
        assert find_model(name) is spec and spec.name == name
        assert (spec.hub_id is None) != (spec.folder is None), "one place to find it, not two"
        assert spec.title and spec.note
    for name, pair in PAIRS.items():
        assert pair.name == name and {pair.left, pair.right} <= set(MODELS)
        from_json(SamplingSettings, dict(pair.sampling))
    assert not PAIRS["stentor"].sampling, "the defaults are the usage example of its card"


def test_the_real_pair_is_that_of_the_cards() -> None:
    assert MODELS["stentor-30m"].parameters == 30_419_712
    assert MODELS["stentor-big"].parameters == 142_639_104
    assert MODELS["stentor-big"].hub_id == "stas122/Stentor-Big"


@pytest.mark.parametrize("name", ["stentor-bug", "STENTOR-BIG", "", "..", ".", "gpt2"])
def test_an_unknown_name_says_what_exists(name: str) -> None:
    with pytest.raises(StentorError) as error:
        find_model(name, allow_folders=False)
    assert "stentor-big" in str(error.value) or "listed model" in str(error.value)


def test_a_near_miss_is_guessed() -> None:
    with pytest.raises(OptionError, match="Did you mean 'stentor-big'"):
        find_model("stentor-bgi")


def test_spaces_around_a_name_are_forgiven() -> None:
    assert find_model("  demo-big\n") is MODELS["demo-big"]


def test_a_checkpoint_of_a_run_is_found(run: Run) -> None:
    spec = find_model(f"run:{run.id}/general-000024", allow_folders=False)
    assert spec.folder == run.checkpoints_folder / "general-000024"
    assert spec.title.startswith("practice-") and spec.title.endswith("general-000024")


@pytest.mark.parametrize(
    "reference",
    [
        "run:",
        "run:/",
        "run:..",
        "run:../..",
        "run:../../etc/general-000024",
        "run:{id}",
        "run:{id}/",
        "run:{id}/..",
        "run:{id}/../{id}/checkpoints/general-000024",
        "run:{id}/general-000024/../../..",
        "run:{id}/general-000024\0",
        "run:{id}/general-000048.partial",
        "run:{id}/general-999999",
        "run:no-such-run/general-000024",
        "run:/etc/passwd",
    ],
)
def test_a_run_reference_never_leaves_the_runs_folder(run: Run, reference: str) -> None:
    with pytest.raises((RunError, OptionError)):
        find_model(reference.format(id=run.id))


def test_a_local_folder_is_found_and_refused_where_strangers_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    spec = find_model("./my-model")
    assert spec.folder == tmp_path / "my-model" and spec.title == "my-model"
    for reference in ("./my-model", str(tmp_path), "/etc/passwd", "C:\\models", "~/x"):
        with pytest.raises(ModelError, match="cannot be opened from here"):
            find_model(reference, allow_folders=False)


@pytest.mark.parametrize(
    "reference", ["./nothing-here", "/etc/passwd", "/" + "a" * 5000, "~nobody-at-all/x", "/a\0b"]
)
def test_a_path_that_is_no_folder_says_what_a_model_folder_holds(reference: str) -> None:
    """A name too long for the system, or an unknown user's home, used to end in a traceback."""
    with pytest.raises(ModelError, match=r"config\.json, model\.safetensors, tokenizer\.json"):
        find_model(reference)


def test_the_menu_lists_complete_checkpoints(run: Run) -> None:
    references = [spec.name for spec in list_checkpoint_models()]
    assert sorted(references) == [
        f"run:{run.id}/expand-000000",
        f"run:{run.id}/general-000024",
    ]
    assert all(find_model(reference).folder for reference in references)


def test_a_checkpoint_pruned_while_the_menu_is_made_does_not_end_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Practice prunes every five steps; the list used to ask for each folder a second time."""

    def list_then_prune(listed: Run) -> list[Path]:
        folders = list_checkpoints(listed)
        shutil.rmtree(run.checkpoints_folder / "expand-000000", ignore_errors=True)
        return folders

    monkeypatch.setattr(models, "list_checkpoints", list_then_prune)
    names = [spec.name for spec in list_checkpoint_models()]
    assert f"run:{run.id}/general-000024" in names
    with pytest.raises(RunError, match="has no checkpoint 'expand-000000'"):
        find_model(f"run:{run.id}/expand-000000")


def test_a_foreign_folder_among_the_runs_does_not_empty_the_menu(run: Run) -> None:
    """A copy named 'My run (2)' is no valid run id; asking for it used to end the whole list."""
    shutil.copytree(run.folder, runs_folder() / "My run (2)")
    assert len(list_checkpoint_models()) == 2


def test_without_runs_the_menu_has_no_checkpoints() -> None:
    assert list_checkpoint_models() == []
