"""A recipe is checked whole, and is the same after JSON."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_recipe import GROWN, TRAINING, tiny_recipe

from stentor.errors import DataError, OptionError
from training.recipe import (
    Recipe,
    Stage,
    check_recipe,
    check_text,
    recipe_from_json,
    recipe_to_json,
    sources_of,
    with_budget,
    with_corpora,
    with_options,
    with_settings,
    with_stages,
    with_text,
)
from training.settings import CreateSettings, ExpandSettings, PretrainSettings, Source

TINY = tiny_recipe(Path("base"))


def changed(**values: object) -> dict[str, Any]:
    return {**json.loads(json.dumps(recipe_to_json(TINY))), **values}


def changed_stage(index: int, **values: object) -> dict[str, Any]:
    recipe = changed()
    recipe["stages"][index].update(values)
    return recipe


def changed_settings(index: int, **values: object) -> dict[str, Any]:
    recipe = changed()
    recipe["stages"][index]["settings"].update(values)
    return recipe


def refusal(values: object) -> str:
    with pytest.raises(OptionError) as caught:
        recipe_from_json(values)  # type: ignore[arg-type]
    return str(caught.value)


def test_json_and_back_is_the_same_recipe() -> None:
    create = Stage("create", "create", "New", CreateSettings(sources=(Source(paths=("a", "b")),)))
    whole = replace(TINY, start=None, stages=(create, *TINY.stages), notes=("one", "two"))
    text = json.dumps(recipe_to_json(check_recipe(whole)))
    assert recipe_from_json(json.loads(text)) == whole


def test_every_problem_is_told_with_its_stage() -> None:
    recipe = changed(seed=-1, num_threads=0)
    recipe["stages"][1]["settings"].update(num_steps=0, learning_rate=math.nan)
    recipe["stages"][2]["settings"].update(schedule="wsd", warmup_fraction=0.5, decay_fraction=0.6)
    message = refusal(recipe)
    for part in (
        "Seed must be at least 0; got -1.",
        "Num threads must be at least 1; got 0.",
        "Stage general: Num steps must be at least 1; got 0. Learning rate must be a number",
        "Stage story: Warm-up fraction and decay fraction are more than the whole stage.",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "A recipe is an object with a list of stages"),
        (None, "A recipe is an object with a list of stages"),
        (changed(stages=None), "A recipe is an object with a list of stages"),
        (changed(stages=[]), "A recipe needs at least one stage."),
        (changed(stages=[5]), "A stage is an object with named values; got 5."),
        (changed(sed=1), "No Recipe option is called 'sed'. Did you mean 'seed'?"),
        (changed(seed="5"), "Seed must be a whole number; got '5'."),
        (changed(seed=1.5), "Seed must be a whole number; got 1.5."),
        (changed(seed=True), "Seed must be a whole number; got True."),
        (changed(seed=2**63), "Seed must be at most"),
        (changed(start=5), "Start must be text or nothing; got 5."),
        (changed(notes="abc"), "Notes must be a list of text; got 'abc'."),
        (changed(start=None), "A recipe starts from a model, or its first stage creates one."),
        (changed_stage(1, kind="pretain"), "No kind of stage is called 'pretain'. Did you mean"),
        (changed_stage(1, kind=5), "A kind of stage is named by text; got 5."),
        (changed_stage(1, name="a-b"), "'a-b' must be a unique name of small letters"),
        (changed_stage(1, name="../x"), "'../x' must be a unique name of small letters"),
        (changed_stage(1, name="story"), "'story' must be a unique name"),
        (changed_stage(1, name=5), "Stage 5: Name must be text; got 5."),
        (changed_settings(1, num_step=5), "is called 'num_step'. Did you mean 'num_steps'?"),
        (changed_settings(1, num_steps=10**400), "Num steps must be at most 10000000; got 1000"),
        (changed_settings(1, sources=None), "Sources must be a list of Source; got None."),
        (changed_settings(1, sources="abc"), "Sources must be a list of Source; got 'abc'."),
        (changed_settings(1, sources=[{"kind": "web"}]), "Kind must be one of generated, files"),
        (changed_settings(1, sources=[{"paths": "abc"}]), "Paths must be a list of text"),
        (changed_settings(0, num_heads=3), "Hidden size 64 must give each of 3 heads an even"),
        (changed_settings(0, num_heads=64), "Hidden size 64 must give each of 64 heads an even"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_reason(values: object, message: str) -> None:
    """A recipe comes from a file that anybody may have edited; some of these were TypeErrors."""
    assert message in refusal(values)


def test_a_missing_name_is_said() -> None:
    recipe = changed()
    del recipe["title"]
    assert "Recipe lacks title." in refusal(recipe)


def test_the_budget_decides_between_steps_and_tokens() -> None:
    settings = PretrainSettings(num_steps=10, num_tokens=5 * 4 * 512 + 1, batch_size=4)
    assert settings.total_steps() == 10
    assert settings.total_tokens() == 10 * 4 * 512
    by_tokens = replace(settings, budget="tokens")
    assert by_tokens.total_steps() == 6, "a whole step for the last token"
    recipe = with_budget(TINY, "tokens")
    for stage in recipe.stages[1:]:
        assert isinstance(stage.settings, PretrainSettings)
        assert stage.settings.budget == "tokens"
    assert [stage.total_steps() for stage in TINY.stages] == [0, 12, 12]


def test_text_goes_to_one_stage_or_to_all_that_read() -> None:
    files = (Source(kind="files", paths=("a.txt", "b.txt")),)
    everywhere = with_text(TINY, ("a.txt", "b.txt"))
    assert own_sources(everywhere) == [files, files]
    assert everywhere.stages[0].settings == GROWN
    one = with_text(TINY, ("a.txt", "b.txt"), "story")
    assert own_sources(one) == [TRAINING.sources, files]


def own_sources(recipe: Recipe) -> list[tuple[Source, ...]]:
    return [
        stage.settings.sources
        for stage in recipe.stages
        if not isinstance(stage.settings, ExpandSettings)
    ]


def replaying(**settings: object) -> Recipe:
    """Return TINY with a story stage that is 75 parts its own text and 25 the general stage's."""
    sources = (Source(name="narrative", weight=75), Source("replay", "general", weight=25))
    return with_settings(TINY, "story", **{"sources": sources, **settings})


def test_replay_reads_an_earlier_stages_text_again() -> None:
    recipe = with_text(replaying(), ("a.txt", "b.txt"), "general", weights=(3, 1))
    assert [(s.name, s.paths, s.weight) for s in sources_of(recipe, recipe.stages[2])] == [
        ("narrative", (), 75),
        ("general", ("a.txt",), 25 * 0.75),
        ("general", ("b.txt",), 25 * 0.25),
    ]
    # Text given for the replaying stage takes the place of its own, not of what it reads again.
    own = with_text(recipe, ("c.txt",), "story").stages[2].settings
    assert isinstance(own, PretrainSettings)
    assert [(s.kind, s.weight) for s in own.sources] == [("files", 75), ("replay", 25)]


def test_replay_of_what_is_not_earlier_is_refused() -> None:
    for name in ("story", "later", "expand"):
        with pytest.raises(OptionError, match=f"replay of '{name}', which is no earlier stage"):
            replaying(sources=(Source(), Source("replay", name)))
    with pytest.raises(OptionError, match="Stage story: no text of its own"):
        replaying(sources=(Source("replay", "general"),))


def test_moments_are_carried_from_the_training_stage_right_before() -> None:
    assert with_settings(TINY, "story", carry_optimizer=True)
    with pytest.raises(OptionError, match="Stage general: carry optimizer needs a training stage"):
        with_settings(TINY, "general", carry_optimizer=True)
    with pytest.raises(OptionError, match="trains with adamw, whose moments muon cannot go on"):
        with_settings(TINY, "story", carry_optimizer=True, optimizer="muon")


def test_text_for_a_stage_that_reads_none_is_refused() -> None:
    """`--text expand=FILE` was once taken and silently forgotten."""
    with pytest.raises(OptionError, match="No stage that reads text is called 'expand'"):
        with_text(TINY, ("a.txt",), "expand")
    with pytest.raises(OptionError, match="Did you mean 'story'"):
        with_text(TINY, ("a.txt",), "stroy")


def test_text_that_is_not_there_is_named_for_every_stage(tmp_path: Path) -> None:
    """A run once trained for days, then found that its next stage had no text."""
    (tmp_path / "a.txt").write_text("text")
    check_text(TINY)
    found = with_text(TINY, (str(tmp_path / "a.txt"), str(tmp_path)))
    check_text(found)
    lost = with_text(found, ("/nope/typo.txt", "/nope/too.txt"), "story")
    own_text = with_settings(lost, "general", sources=({"kind": "files"},))
    with pytest.raises(DataError) as caught:
        check_text(own_text)
    assert str(caught.value) == (
        "Stage general reads your own text and has none. Stage story: /nope/typo.txt does not "
        "exist. Stage story: /nope/too.txt does not exist. Give text with --text STAGE=FILE or "
        "--corpora DIR, or upload it in the Training tab."
    )


def waiting(*names: str) -> Recipe:
    """Return TINY with a general stage that reads files of these names, which it has not yet."""
    sources = tuple(Source(kind="files", name=name) for name in names)
    return with_settings(TINY, "general", sources=sources)


def test_corpora_go_to_the_sources_whose_names_their_own_holds() -> None:
    there = Source(kind="files", name="facts", paths=("mine.txt",))
    recipe = waiting("general", "My Facts")
    recipe = with_settings(recipe, "story", sources=(Source("files", "general"), there))
    names = ("stage1_General.parquet", "generals.txt", "my-facts2", "facts.txt", "SOURCES.md")
    found = own_sources(with_corpora(recipe, "/corpora", names))
    assert [[(s.name, s.paths) for s in sources] for sources in found] == [
        [("general", ("/corpora/stage1_General.parquet",)), ("My Facts", ("/corpora/my-facts2",))],
        [("general", ("/corpora/stage1_General.parquet",)), ("facts", ("mine.txt",))],
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "--corpora /corpora: no entry fits the source 'general'. Have one file or folder with "
         "the word 'general' in its name, such as stage1_general.parquet; there is: nothing."),
        (("generalities.txt",), "no entry fits the source 'general'"),
        (("general.txt", "general"), "2 entries fit the source 'general'"),
        (("general.txt", "general"), "there is: general, general.txt."),
    ],
)  # fmt: skip
def test_corpora_that_do_not_fit_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        with_corpora(waiting("general"), "/corpora", names)
    assert message in str(caught.value)


def test_corpora_that_nothing_would_read_are_refused() -> None:
    with pytest.raises(DataError, match="no stage of recipe tiny waits for text of your own"):
        with_corpora(TINY, "/corpora", ("general.txt",))


def test_files_keep_the_names_of_the_sources_they_take_the_place_of() -> None:
    """Else a text given by hand would be told of under another name than the same by corpora."""
    both = waiting("general", "facts")
    for paths, weights, names in (
        (("a.txt", "b.txt"), (3, 1), ["general", "facts"]),
        (("a.txt", "b.txt"), (), ["general"]),
        (("a.txt", "b.txt", "c.txt"), (1, 1, 1), ["general"] * 3),
    ):
        sources = own_sources(with_text(both, paths, "general", weights))[0]
        assert [source.name for source in sources] == names
    sources = own_sources(with_text(waiting("facts"), ("a.txt", "b.txt"), "general"))[0]
    assert [(source.name, source.paths) for source in sources] == [("facts", ("a.txt", "b.txt"))]


BASE = Stage("base", "pretrain", "Base", TRAINING)
WITH_BASE = replace(TINY, stages=(BASE, *TINY.stages))


def test_a_pair_names_training_stages_around_a_growth() -> None:
    whole = check_recipe(replace(WITH_BASE, pair=("base", "story")))
    assert recipe_from_json(json.loads(json.dumps(recipe_to_json(whole)))) == whole
    assert recipe_from_json(recipe_to_json(WITH_BASE)).pair == ()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("base",), "A pair is two training stages, one before and one after growing, or nothing; "
         "got 1: base."),
        (("base", "general", "story"), "got 3: base, general, story."),
        (("base", "last"), "The pair names 'last', which is no training stage of the run; there "
         "is: base, general, story."),
        (("expand", "story"), "The pair names 'expand', which is no training stage"),
        (("general", "story"), "The pair general, story needs a stage that grows the model"),
        (("story", "base"), "The pair story, base needs a stage that grows the model"),
        (("base", "base"), "The pair base, base needs a stage that grows the model"),
        ("base", "Pair must be a list of text; got 'base'."),
    ],
)  # fmt: skip
def test_a_pair_that_is_none_is_refused(pair: object, message: str) -> None:
    values = {**json.loads(json.dumps(recipe_to_json(WITH_BASE))), "pair": pair}
    assert message in refusal(values)


def test_a_stage_of_the_pair_cannot_be_skipped() -> None:
    whole = replace(WITH_BASE, pair=("base", "story"))
    with pytest.raises(OptionError, match="The pair names 'story', which is no training stage"):
        with_stages(whole, {}, skip=("story",))
    assert with_stages(whole, {}, skip=("general",))


def test_changes_are_checked_again() -> None:
    assert with_options(TINY, seed=9).seed == 9
    with pytest.raises(OptionError, match="Seed must be"):
        with_options(TINY, seed=-1)
    with pytest.raises(OptionError, match="Stage general: Batch size must be at least 1"):
        with_settings(TINY, "general", batch_size=0)
    longer = with_settings(TINY, "general", num_steps=20)
    assert [stage.total_steps() for stage in longer.stages] == [0, 20, 12]


def test_a_source_describes_itself() -> None:
    assert Source(name="narrative").describe() == "generated text, narrative"
    assert Source(kind="files").describe() == "your own files"
    assert Source(kind="files", paths=("/x/a.txt", "b.txt")).describe() == "a.txt, b.txt"
    assert Source(kind="hub", name="a/b", subset="c").describe() == "a/b (c)"
