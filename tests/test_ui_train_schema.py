"""The planner's forms hold every option that is declared, each in one place."""

import dataclasses
import json

import pytest

from stentor.knobs import knobs
from stentor.ui.train_schema import (
    ALWAYS,
    ELSEWHERE,
    GROUPS,
    HELP,
    MORE,
    SOURCE_OPTIONS,
    schema,
)
from training.settings import SETTINGS, SOURCE_KINDS, PretrainSettings, Source

FORMS = json.loads(json.dumps(schema()))


def names_of(owner: type) -> list[str]:
    return [item.name for item in dataclasses.fields(owner)]


@pytest.mark.parametrize("owner", GROUPS, ids=lambda owner: owner.__name__)
def test_groups_name_declared_options_once(owner: type) -> None:
    grouped = [name for names in GROUPS[owner].values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert {*grouped, *ELSEWHERE.get(owner, ())} <= {*names_of(owner)}


@pytest.mark.parametrize("owner", GROUPS, ids=lambda owner: owner.__name__)
def test_every_option_explains_itself(owner: type) -> None:
    told = {name for part, name in HELP if part is owner}
    assert told | {*knobs(owner)} | {*ELSEWHERE.get(owner, ())} == {*names_of(owner)}
    assert not told & {*knobs(owner)}, "a knob has its own help"


@pytest.mark.parametrize("kind", SETTINGS)
def test_no_option_of_a_stage_is_lost(kind: str) -> None:
    form = FORMS["settings"][kind]
    shown = [name for group in form["groups"] for name in group["options"]]
    assert sorted(shown) == sorted(names_of(SETTINGS[kind])) == sorted(form["options"])


def test_an_option_in_no_group_appears_under_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, PretrainSettings, {"Text": ("sources",)})
    more = schema()["settings"]["pretrain"]["groups"][-1]
    assert more["title"] == MORE
    assert {"learning_rate", "torch_compile"} <= {*more["options"]}


def test_each_kind_of_source_has_its_fields() -> None:
    assert set(SOURCE_OPTIONS) == set(SOURCE_KINDS)
    placed = {name for names in FORMS["source_options"].values() for name in names}
    assert placed | {*ALWAYS} == {*names_of(Source)}


def test_options_carry_what_their_declaration_says() -> None:
    rate = FORMS["settings"]["pretrain"]["options"]["learning_rate"]
    assert (rate["kind"], rate["low"], rate["high"], rate["default"]) == ("float", 1e-8, 1.0, 2e-4)
    schedule = FORMS["settings"]["pretrain"]["options"]["schedule"]
    assert (schedule["kind"], schedule["choices"]) == ("choice", ["cosine", "wsd"])
    rows = FORMS["settings"]["expand"]["options"]["vocab_size"]
    assert (rows["kind"], rows["optional"], rows["default"]) == ("int", True, None)
    sources = FORMS["settings"]["pretrain"]["options"]["sources"]
    assert sources["kind"] == "sources"
    assert sources["default"][0]["kind"] == "generated"
    assert FORMS["recipe"]["options"]["sample_prompts"]["kind"] == "lines"
