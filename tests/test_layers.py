"""Imports go one way. Read with `ast`, so that no module needs to be imported."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Imported by the command line and by every test: milliseconds, nothing third-party.
STANDARD_LIBRARY_ONLY = (
    "stentor/errors.py",
    "stentor/knobs.py",
    "stentor/home.py",
    "stentor/models.py",
    "stentor/runs.py",
    "stentor/jobs.py",
    "stentor/processes.py",
    "stentor/run_deletion.py",
    "stentor/run_devices.py",
    "stentor/run_events.py",
    "stentor/run_folder.py",
    "stentor/run_queue.py",
    "stentor/run_wishes.py",
    "stentor/notify.py",
    "training/alarm_settings.py",
    "training/hand_over/settings.py",
    "training/recipe.py",
    "training/recipe_problems.py",
    "training/recipe_types.py",
    "training/settings.py",
    "training/recipes/__init__.py",
    "training/recipes/card.py",
    "training/recipes/demo_pair.py",
    "training/recipes/demo_pair_scratch.py",
    "training/recipes/practice.py",
    "training/recipes/stentor_big_plus.py",
)
OURS = ("stentor", "training")
TRAINING_FOR_THE_PAGE = (
    "training.alarm_settings",
    "training.hand_over.settings",
    "training.recipe",
    "training.recipes",
    "training.settings",
)
# The names of tabs, each with its helper modules `<tab>_*.py`.
TABS = ("compare", "prompts", "train")
# What a module may do at its top level: define names.
QUIET = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
)


def sources() -> list[str]:
    """Return every module of the project, relative to its root."""
    files = [ROOT / "app.py", *ROOT.glob("stentor/**/*.py"), *ROOT.glob("training/**/*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def parse(source: str) -> ast.Module:
    return ast.parse((ROOT / source).read_text(encoding="utf-8"))


def imported(source: str) -> Iterator[str]:
    """Yield the absolute name of everything a module imports, functions' imports included."""
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source} line {node.lineno}: a relative import"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(source: str) -> set[str]:
    return {name.partition(".")[0] for name in imported(source)}


@pytest.mark.parametrize("source", sources())
def test_gradio_lives_in_the_page_only(source: str) -> None:
    if source != "app.py" and not source.startswith("stentor/ui/"):
        assert "gradio" not in tops(source)


@pytest.mark.parametrize("source", [name for name in sources() if name.startswith("stentor/")])
def test_the_playground_does_not_import_the_trainer(source: str) -> None:
    from_training = {name for name in imported(source) if name.split(".")[0] == "training"}
    if not source.startswith("stentor/ui/train"):
        assert not from_training
    for name in from_training:
        parent = name.rpartition(".")[0]
        assert name in TRAINING_FOR_THE_PAGE or parent in TRAINING_FOR_THE_PAGE


@pytest.mark.parametrize("source", [name for name in sources() if name.startswith("training/")])
def test_the_trainer_does_not_import_the_page(source: str) -> None:
    assert not any(name.startswith("stentor.ui") for name in imported(source))


@pytest.mark.parametrize("source", STANDARD_LIBRARY_ONLY)
def test_the_contracts_need_nothing_installed(source: str) -> None:
    assert tops(source) <= {*sys.stdlib_module_names, *OURS}
    for name in imported(source):
        path = name.replace(".", "/") + ".py"
        if (ROOT / path).is_file():
            assert path in STANDARD_LIBRARY_ONLY


def tab_of(module: str) -> str | None:
    """Return the tab that a module of stentor/ui belongs to, or None: it is shared."""
    return next((tab for tab in TABS if module == tab or module.startswith(f"{tab}_")), None)


@pytest.mark.parametrize("source", [name for name in sources() if name.startswith("stentor/ui/")])
def test_tabs_do_not_import_each_other(source: str) -> None:
    if source == "stentor/ui/__init__.py":
        return
    own = tab_of(Path(source).stem)
    for name in imported(source):
        if name.startswith("stentor.ui."):
            assert tab_of(name.split(".")[2]) in (None, own), f"{source} imports {name}"


@pytest.mark.parametrize("source", sources())
def test_an_import_has_no_effect(source: str) -> None:
    """At the top level a module defines names: no bare call, no loop, no global changed."""
    for node in parse(source).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_start = isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        assert isinstance(node, QUIET) or is_text or is_start, (
            f"{source} line {node.lineno}: {ast.unparse(node)[:80]}"
        )
        targets = node.targets if isinstance(node, ast.Assign) else []
        assert all(isinstance(target, ast.Name | ast.Tuple) for target in targets), (
            f"{source} line {node.lineno} changes something that is not its own"
        )


@pytest.mark.parametrize("source", sources())
def test_modules_say_what_they_are_and_stay_short(source: str) -> None:
    assert ast.get_docstring(parse(source)), f"{source} has no docstring"
    length = len((ROOT / source).read_text(encoding="utf-8").splitlines())
    assert length <= 300, f"{source} has {length} lines"
