"""Settings say in words what they mean."""

import pytest

from training.recipe import recipe_from_json
from training.settings import PretrainSettings, Source, describe_sources


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (PretrainSettings(), "0.0002, warm-up 5%, cosine to 0%"),
        (
            PretrainSettings(schedule="wsd", learning_rate=1e-3, final_fraction=0.1),
            "0.001, warm-up 5%, stable, the last 20% of steps down to 10%",
        ),
        (
            PretrainSettings(schedule="wsd", warmup_fraction=0.0, decay_fraction=0.0),
            "0.0002, then stable",
        ),
        (
            PretrainSettings(branch_fraction=0.25),
            "0.0002, warm-up 5%, cosine to 0%; the next stage branches off at 25%",
        ),
    ],
)
def test_a_schedule_in_words(settings: PretrainSettings, words: str) -> None:
    assert settings.describe_schedule() == words


@pytest.mark.parametrize(("fraction", "step"), [(1.0, 8), (0.5, 4), (0.2, 2), (0.0, 1)])
def test_the_next_stage_branches_off_at_a_step_that_was_taken(fraction: float, step: int) -> None:
    assert PretrainSettings(num_steps=8, branch_fraction=fraction).branch_step() == step


def test_a_mixture_tells_shares_only_where_they_differ() -> None:
    fiction = Source(kind="files", paths=("a/fiction.txt",), weight=3)
    general = Source(kind="replay", name="general")
    mixed = "75% fiction.txt; 25% the text of stage general again"
    assert describe_sources((fiction, general)) == mixed
    assert describe_sources((Source(), Source(name="narrative"))) == (
        "generated text, general; generated text, narrative"
    )
    halves = (
        Source(weight=32.5),
        Source(name="narrative", weight=32.5),
        Source(name="textbook", weight=35),
    )
    assert describe_sources(halves).count("32.5%") == 2, "shares add up to 100 %"


def test_a_recipe_written_before_an_option_existed_still_loads() -> None:
    """Runs keep their recipe.json; resuming one must not need a newer file."""
    stage = {"name": "general", "kind": "pretrain", "title": "General", "settings": {}}
    old = {"name": "old", "title": "", "purpose": "", "start": "demo-base", "stages": [stage]}
    assert recipe_from_json(old).stages[0].settings == PretrainSettings()


def test_many_files_are_counted_and_a_folder_keeps_its_name() -> None:
    """A thousand names stood in every message of a stage, and `books/` was `your own files`."""
    files = tuple(f"/texts/{number}.txt" for number in range(1200))
    assert Source(kind="files", paths=files[:4]).describe() == "0.txt, 1.txt, 2.txt, 3.txt"
    assert Source(kind="files", paths=files).describe().endswith("2.txt, 3.txt, 1,196 more")
    assert Source(kind="files", paths=("/texts/books/",)).describe() == "books"
    assert Source(kind="files").describe() == "your own files"
