"""The hundred prompts and the reader of their files."""

from pathlib import Path

import pytest

from stentor import prompts
from stentor.errors import OptionError
from stentor.scorers import SCORERS

CARD_PROMPTS = {
    "Photosynthesis is the process by which plants",
    "The meaning of life is a question that",
    "The capital of France is",
    "The square root of 64 is",
}
CARD_VERDICTS = {
    "science": "excellent",
    "philosophy": "excellent",
    "interdisciplinary": "excellent",
    "literature": "moderate",
    "geography": "moderate",
    "python": "moderate",
    "mathematics": "poor",
}
GOOD = """
title = "Birds"
order = 99
purpose = "Whether it knows birds."
temperature = 0
max_new_tokens = 16
settings_reason = "Facts."
scorer = "expected"

[[prompts]]
text = "A swallow is a"
origin = "written"
expected = ["bird"]
"""


def write(folder: Path, text: str, name: str = "birds.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_there_are_a_hundred_different_prompts_in_ten_categories() -> None:
    assert [len(item.prompts) for item in prompts.categories().values()] == [10] * 10
    assert len({prompt.text for prompt in prompts.prompts_of("all")}) == 100
    assert len({prompt.id for prompt in prompts.prompts_of("all")}) == 100


def test_the_prompts_of_the_card_are_marked_and_the_rest_are_ours() -> None:
    assert {prompt.text for prompt in prompts.search(origin="card")} == CARD_PROMPTS
    assert len(prompts.search(origin="written")) == 96


def test_the_verdicts_are_those_of_the_card() -> None:
    given = {name: item.card_verdict for name, item in prompts.categories().items()}
    assert {name: verdict for name, verdict in given.items() if verdict} == CARD_VERDICTS


def test_every_scorer_is_used_and_every_expected_answer_is_scored() -> None:
    used = {item.scorer for item in prompts.categories().values()}
    assert used == set(SCORERS)
    for item in prompts.categories().values():
        for prompt in item.prompts:
            assert bool(prompt.expected) == (item.scorer == "expected"), prompt.id


def test_categories_come_in_the_order_of_their_files() -> None:
    orders = [item.order for item in prompts.categories().values()]
    assert orders == sorted(orders)


def test_a_prompt_is_found_by_its_id() -> None:
    assert prompts.find_prompt("science-01").text.startswith("Photosynthesis")
    with pytest.raises(OptionError, match=r"science-99.*science-01"):
        prompts.find_prompt("science-99")
    with pytest.raises(OptionError, match="No prompt category is called ''"):
        prompts.find_prompt("../../etc")


def test_search_wants_every_word_in_any_case() -> None:
    assert [item.id for item in prompts.search("FRANCE capital", "geography")] == ["geography-01"]
    assert len(prompts.search("science", category="all")) >= 10
    assert prompts.search("xylophonist") == ()
    assert len(prompts.search("   ")) == 100


def test_the_suite_hash_is_stable_within_a_suite() -> None:
    assert prompts.suite_hash() == prompts.suite_hash()
    assert prompts.suite_hash().startswith("sha256:")


def test_adding_a_file_adds_a_category(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    (category,) = prompts.read_categories(tmp_path).values()
    assert (category.name, category.card_verdict, category.temperature) == ("birds", None, 0.0)
    assert category.prompts[0] == prompts.Prompt(
        "birds-01", "birds", "A swallow is a", "written", ("bird",)
    )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('title = "Birds"', "", "birds.toml: title is missing"),
        ('"Birds"', "7", "birds.toml: title must be text"),
        ("temperature = 0", "temperature = 3", "temperature must be a number from 0 to 2; got 3"),
        ("temperature = 0", "temperature = nan", "temperature must be a number"),
        ("= 16", "= 16.5", "max_new_tokens must be a whole number from 1 to 512; got 16.5"),
        ('scorer = "expected"', 'scorer = "luck"', "scorer must be one of expected, python"),
        ('"written"', '"borrowed"', "prompt 1: origin must be one of card, written"),
        ('["bird"]', "[]", "prompt 1: expected must be a list of texts"),
        ('["bird"]', '"bird"', "prompt 1: expected must be a list of texts"),
        ("expected =", "answers =", "prompt 1: answers is not a known key"),
        ("order = 99", "order = 99\ncolour = 1", "birds.toml: colour is not a known key"),
        ("order = 99", "order = true", "order must be a whole number"),
        ("[[prompts]]", "[prompts]", r"prompts must be one or more \[\[prompts\]\] tables"),
        ("title =", "title", "not a TOML file"),
    ],
)
def test_a_bad_file_is_refused_by_file_and_key(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in GOOD
    with pytest.raises(OptionError, match=message):
        prompts.read_category(write(tmp_path, GOOD.replace(before, after, 1)))


def test_a_bad_file_name_an_empty_folder_and_bad_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no prompt category"):
        prompts.read_categories(tmp_path)
    for name in ("My Birds.toml", "all.toml"):
        with pytest.raises(OptionError, match="small letters"):
            prompts.read_category(write(tmp_path, GOOD, name))
    (tmp_path / "latin.toml").write_bytes(GOOD.replace("Birds", "Mésange").encode("latin-1"))
    with pytest.raises(OptionError, match="UTF-8"):
        prompts.read_category(tmp_path / "latin.toml")
