"""A finished run as a folder that others can use: card, weights, recipe, and the refusals."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_recipe import NUM_STEPS, create, run_to_its_end, tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from stentor.errors import ModelError, OptionError, RunError
from stentor.loading import open_checkpoint_folder
from stentor.runs import Run, append_event
from training.hand_over.folder import write_folder
from training.hand_over.model_card import NOT_STATED, line
from training.hand_over.settings import HandOverSettings, check_settings
from training.hand_over.story import RunStory, read_story
from training.integrity import check_sealed
from training.recipe import recipe_from_json
from training.settings import Source

LAST = f"story-{NUM_STEPS:06d}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Run:
    """Return a run of a real child: own text of a stated licence, then generated text."""
    home = tmp_path_factory.mktemp("handed-home")
    text = home / "rivers.txt"
    text.write_text("The river runs past the mill.\n" * 4_000, encoding="utf-8")
    sources = (Source(kind="files", paths=(str(text),), licence="CC BY 4.0", weight=3.0), Source())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(home))
        run = create(tiny_recipe(tiny_model_folder, sources))
        assert run_to_its_end(run) == "finished"
    return run


def hand_over(story: RunStory, output: Path) -> str:
    """Write the folder and return its card."""
    write_folder(story, output, HandOverSettings("River *model*", "mit", "float32"))
    return (output / "README.md").read_text(encoding="utf-8")


def test_the_folder_loads_in_stock_transformers_with_the_weights_of_the_run(
    finished: Run, tmp_path: Path
) -> None:
    output = tmp_path / "models" / "river"
    hand_over(read_story(finished), output)
    model = AutoModelForCausalLM.from_pretrained(output)
    trained = AutoModelForCausalLM.from_pretrained(finished.checkpoints_folder / LAST)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert AutoTokenizer.from_pretrained(output)("The river")["input_ids"]
    check_sealed(output)
    recipe = json.loads((output / "recipe.json").read_text(encoding="utf-8"))
    assert recipe_from_json(recipe).name == "tiny"
    assert not list(output.glob("optimizer*")), "what only training needs stays in the run"
    assert not list(output.parent.glob(".*")), "nothing half written is left"


def test_the_card_tells_recipe_data_licences_figures_and_limits(
    finished: Run, tmp_path: Path
) -> None:
    card = hand_over(read_story(finished), tmp_path / "river")
    assert card.startswith("---\nlanguage: en\nlicense: mit\nlibrary_name: transformers\n")
    assert "# River \\*model\\*" in card
    assert f"{finished.id}, checkpoint {LAST}" in card.replace("\\", "")
    assert "| general | rivers.txt | 75% |" in card and "| CC BY 4.0 |" in card
    assert "made by the playground itself" in card and NOT_STATED not in card
    assert "licence on its card: not stated" in card, "the tiny model has no card"
    parameters = open_checkpoint_folder(tmp_path / "river").num_parameters
    assert f"{parameters:,} parameters, grown from" in card
    tokens = 2 * NUM_STEPS * 4 * 512
    assert f"| training tokens | {tokens:,} |" in card
    assert f"{tokens / parameters:.3g} tokens per parameter" in card
    figures = card[card.index("## Figures") :]
    assert "nan" not in figures.lower() and figures.count("| general |") == 1


def test_an_earlier_checkpoint_is_told_as_it_was_then(finished: Run, tmp_path: Path) -> None:
    """The card of stage 1 must not boast of what only stage 2 did."""
    story = read_story(finished, f"general-{NUM_STEPS:06d}")
    assert story.tokens == NUM_STEPS * 4 * 512
    assert story.stages["story"].steps == 0
    card = hand_over(story, tmp_path / "river")
    assert f"0 of {NUM_STEPS} steps" in card


def test_words_of_others_cannot_break_the_card() -> None:
    text = "---\nlicense: mine |\n# [x](javascript:alert) <script>"
    assert line(text) == "--- license: mine \\| \\# \\[x\\](javascript:alert) \\<script\\>"


def test_what_cannot_be_handed_over_is_refused(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no checkpoint 'general-000099'; it has: expand-000000"):
        read_story(finished, "general-000099")
    for licence in ("MIT", "mit\nfree: yes", "", "../x"):
        with pytest.raises(OptionError, match="named as on the Hub"):
            check_settings(HandOverSettings(licence=licence))
    copy = Run(tmp_path / "copy")
    subprocess.run(["cp", "-r", finished.folder, copy.folder], check=True)
    append_event(copy, "warning", message="Look here.")
    weights = copy.checkpoints_folder / LAST / "model.safetensors"
    block = bytearray(weights.read_bytes())
    block[-1] ^= 1
    weights.write_bytes(block)
    with pytest.raises(ModelError, match="not what was written"):
        hand_over(read_story(copy), tmp_path / "river")
    assert not (tmp_path / "river").exists()
    copy.status_file.unlink()
    with pytest.raises(RunError, match=r"not finished\. Name one of its checkpoints"):
        read_story(copy)


def test_the_command_needs_no_torch_to_explain_itself() -> None:
    program = (
        "import argparse, sys\n"
        "from training.hand_over.command import add_flags\n"
        "add_flags(argparse.ArgumentParser())\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
