"""Every table is complete: whoever adds a file and forgets its line hears of it here."""

import ast
from pathlib import Path

from stentor.models import MODELS, PAIRS
from stentor.prompts import categories
from stentor.scorers import SCORERS
from stentor.ui import STYLES, TABS
from stentor.ui.context import COMPARE_TAB, DEMO_PAIR, REAL_PAIR
from training.recipes import RECIPES, find_recipe
from training.settings import SETTINGS
from training.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent


def modules_of(folder: str) -> set[str]:
    return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}


def defined_in(path: Path) -> set[str]:
    """Return the names a module defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def test_every_tab_module_is_in_tabs() -> None:
    """A tab is a module of stentor/ui with TITLE and build."""
    folder = ROOT / "stentor" / "ui"
    tabs = {name for name in modules_of("stentor/ui") if _is_tab(folder / f"{name}.py")}
    assert tabs == {tab.name for tab in TABS}
    assert len({tab.title for tab in TABS}) == len(TABS)
    assert TABS[0].name == COMPARE_TAB


def _is_tab(path: Path) -> bool:
    return {"TITLE", "build"} <= defined_in(path)


def test_every_style_sheet_is_served_after_the_pages_own() -> None:
    assert STYLES[0] == "style.css"
    assert set(STYLES) == {path.name for path in (ROOT / "assets").glob("*.css")}


def test_every_recipe_module_is_in_recipes() -> None:
    assert {name.replace("-", "_") for name in RECIPES} == modules_of("training/recipes")
    for name in RECIPES:
        assert find_recipe(name).name == name


def test_every_kind_of_stage_can_be_written_and_run() -> None:
    assert set(STAGES) == set(SETTINGS)
    assert set(STAGES) <= modules_of("training/stages")
    used = {stage.kind for name in RECIPES for stage in find_recipe(name).stages}
    assert used == set(STAGES)


def test_recipes_start_from_known_models() -> None:
    starts = {find_recipe(name).start for name in RECIPES}
    assert starts <= {*MODELS, None}


def test_pairs_are_of_known_models_and_every_model_is_in_a_pair() -> None:
    assert {reference for pair in PAIRS.values() for reference in (pair.left, pair.right)} == set(
        MODELS
    )
    assert {REAL_PAIR, DEMO_PAIR} == set(PAIRS)
    for name, spec in MODELS.items():
        assert spec.name == name
        assert (spec.hub_id is None) != (spec.folder is None)


def test_every_category_has_a_scorer_and_every_scorer_a_use() -> None:
    assert {category.scorer for category in categories().values()} == set(SCORERS)
    files = {path.stem for path in (ROOT / "stentor" / "prompts").glob("*.toml")}
    assert set(categories()) == files
