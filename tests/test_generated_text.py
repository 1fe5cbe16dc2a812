"""The text that the project makes itself."""

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from training.generated_text import FLAVOURS, generate_documents
from training.recipes import find_recipe
from training.settings import PretrainSettings

ROOT = Path(__file__).resolve().parent.parent


def some(flavour: str, seed: int = 0, count: int = 200) -> list[str]:
    return list(islice(generate_documents(flavour, seed), count))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_same_seed_gives_the_same_varied_text(flavour: str) -> None:
    assert some(flavour) == some(flavour) != some(flavour, seed=1)
    assert len(set(some(flavour))) > 50
    for document in some(flavour):
        assert document == document.strip() and document.endswith((".", '"'))
        assert document.isascii() and "  " not in document
        assert 80 < len(document) < 600


def test_the_text_is_the_same_in_every_process() -> None:
    """Python hashes text differently in each process; a seed must not."""
    script = (
        "from training.generated_text import generate_documents as g; print(next(g('general', 7)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    printed = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=environment,
    )
    assert printed.stdout.strip() == next(generate_documents("general", 7))


def test_sums_are_right() -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    sums = [text for text in some("textbook") if text.startswith("To add")]
    assert len(sums) > 50
    for text in sums:
        left, right = (word.strip(",.") for word in text.split()[2:5:2])
        result = text.split("The result is ")[1].split(".")[0]
        assert words.index(left) + words.index(right) == words.index(result)


def test_practice_reads_the_flavours() -> None:
    names = {
        source.name
        for stage in find_recipe("practice").stages
        if isinstance(stage.settings, PretrainSettings)
        for source in stage.settings.sources
    }
    assert names == set(FLAVOURS)
