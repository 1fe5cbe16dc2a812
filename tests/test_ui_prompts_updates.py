"""The list of the Prompts tab under search and filters."""

from stentor.evaluation_store import EvaluationSettings, ModelUsed, create_evaluation
from stentor.prompts import prompts_of
from stentor.ui.prompts_updates import (
    choices_of,
    count_line,
    detail_of,
    filtered,
    list_updates,
    prompt_for_compare,
)


def test_a_choice_that_still_fits_is_kept() -> None:
    chosen, (_, listed, count) = list_updates("geography", "capital", "all", "geography-07")
    assert chosen == listed.value == "geography-07"
    assert [prompt for _, prompt in listed.choices] == [
        "geography-01",
        "geography-06",
        "geography-07",
        "geography-08",
    ]
    assert "4 prompts" in count


def test_a_choice_that_no_longer_fits_gives_way_to_the_first() -> None:
    chosen, _ = list_updates("geography", "", "card", "geography-07")
    assert chosen == "geography-01"
    chosen, _ = list_updates("all", "", "all", None)
    assert chosen == "science-01"


def test_nothing_found_says_what_to_do() -> None:
    about, listed, count, detail = filtered("science", "xylophonist", "all", "science-01", None)
    assert listed.value is None and listed.choices == []
    assert "Nothing found" in count and "No prompt chosen" in detail
    assert "category-about" in about


def test_one_prompt_is_counted_in_the_singular() -> None:
    assert ">1 prompt<" in count_line(1)
    assert len(choices_of(prompts_of("all"))) == 100


def test_the_detail_of_a_prompt_without_a_run() -> None:
    assert "The square root of 64 is" in detail_of("mathematics-02", None)


def test_a_run_from_before_an_option_existed_sends_its_default_to_compare() -> None:
    """Else Compare would keep the visitor's own min-p and show another text than the run's."""
    run = create_evaluation(
        EvaluationSettings("science"),
        (ModelUsed("demo-base", "Demo base"), ModelUsed("demo-big", "Demo big")),
        suite_hash="sha256:1",
        sampling={"science": {"temperature": 0.4, "top_p": 0.8, "seed": 42}},
        total=20,
        prompts_at_a_time=1,
        versions={},
        machine={},
    )
    settings = dict(prompt_for_compare("science-01", run.id).settings)
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (0.4, 0.8, 42)
    assert settings["min_p"] == 0.0
    of_category = dict(prompt_for_compare("science-01", None).settings)
    assert set(of_category) == {"temperature", "max_new_tokens"}
