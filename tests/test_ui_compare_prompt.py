"""The token count under the prompt says what will happen to a prompt that is too long."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stentor.store import ModelStore
from stentor.ui.compare_prompt import count_line


@pytest.fixture
def pair(tiny_model_folder: Path) -> tuple[str, str]:
    return str(tiny_model_folder), str(tiny_model_folder)


@pytest.fixture
def store() -> Iterator[ModelStore]:
    with ModelStore(num_threads=1) as store:
        yield store


def test_counts_and_warns(store: ModelStore, pair: tuple[str, str]) -> None:
    def line(prompt: str, overflow: str = "refuse") -> str:
        return count_line(store, prompt, pair, overflow, allow_folders=True)

    assert "0 of 512 tokens" in line("")
    assert "will be refused" in line("river " * 900)
    assert "will be left out" in line("river " * 900, "truncate")


def test_a_model_that_is_gone_is_named_instead_of_counted(store: ModelStore) -> None:
    line = count_line(store, "Once", ("/nowhere/at-all", "demo-big"), "refuse", allow_folders=True)
    assert "/nowhere/at-all" in line
