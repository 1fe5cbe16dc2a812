"""What a pair is measured on: the documents that no stage trains on, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pair_run import QUICK, pair_recipe, write_texts
from stage_texts import SETTINGS, held_out_text, stream_of, texts, trained_texts, written
from tiny_recipe import tiny_recipe

from stentor.errors import DataError
from stentor.loading import open_checkpoint_folder
from training.data import prepare_stage_data
from training.pair.measure import (
    check_held_out,
    cut_windows,
    held_out_windows,
    text_sources,
)
from training.settings import Source
from training.sources import silent
from training.tokenise import is_held_out


def test_it_is_what_a_stage_keeps_apart_and_never_trains_on(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The windows of a stage that holds out more than there is are those that are measured."""
    tokenizer = open_checkpoint_folder(tiny_model_folder).tokenizer
    source = written(tmp_path / "text.jsonl", texts(300))
    found = held_out_windows((source,), tokenizer, 0, 1000)
    settings = replace(SETTINGS, validation_windows=1000)
    data = prepare_stage_data((source,), tokenizer, 0, settings, tmp_path / "data", 0, silent)
    assert data.held_out_by == "documents"
    assert np.array_equal(found.windows.numpy(), data.held_out[0].windows)
    documents = [text for text in texts(300) if is_held_out(text)]
    assert found.num_documents <= len(documents)
    trained = torch.cat([data.batch_of_step(step, 2) for step in range(5)])
    words = {word for row in trained.tolist() for word in tokenizer.decode(row).split()[1:-1]}
    assert words and not words & {document.split()[0] for document in documents}


def test_fewer_windows_are_taken_evenly_from_all_held_out_documents(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The first 256 windows of the demo pair's general text once spoke of 69 documents of 241."""
    tokenizer = open_checkpoint_folder(tiny_model_folder).tokenizer
    source = written(tmp_path / "text.jsonl", texts(300))
    every = held_out_windows((source,), tokenizer, 0, 1000)
    some = held_out_windows((source,), tokenizer, 0, 2)
    middle = len(every.windows) // 2
    assert torch.equal(some.windows, every.windows[[0, middle]]) and middle > 1
    assert some.num_bytes < every.num_bytes
    assert 1 < some.num_documents < every.num_documents


def test_windows_are_cut_from_documents_in_a_row(tiny_model_folder: Path) -> None:
    tokenizer = open_checkpoint_folder(tiny_model_folder).tokenizer
    documents = ["Naïve café owners say “bonjour”. 😀 " * 40, "Two and two are four. " * 200]
    text = cut_windows(documents, tokenizer, 0, 2)
    assert np.array_equal(text.windows[:, :-1].numpy(), stream_of(tokenizer, documents, 2))
    assert set(text.windows[:, -1].tolist()) == {0}
    assert (text.num_predicted, text.num_documents) == (2 * 511, 1)
    assert cut_windows(documents, tokenizer, 0, 1000).num_documents == 2
    with pytest.raises(DataError, match="shorter than a window of 512 tokens"):
        cut_windows(["short"], tokenizer, 0, 2)


def test_texts_are_named_once_by_their_sources(tmp_path: Path) -> None:
    first, second = (Source(kind="files", paths=(f"/{name}/a.txt",)) for name in "xy")
    named = Source(kind="files", name="story", paths=("/z.txt",), weight=3.0)
    recipe = tiny_recipe(tmp_path, (first, named, replace(first, weight=9.0)))
    assert text_sources(recipe) == {"general": first, "story": replace(named, weight=1.0)}
    recipe = tiny_recipe(tmp_path, (first, second, named))
    assert list(text_sources(recipe)) == ["a.txt", "a.txt (2)", "story"]
    recipe = tiny_recipe(tmp_path, (replace(named, name="a.txt (2)"), first, second))
    assert list(text_sources(recipe)) == ["a.txt (2)", "a.txt", "a.txt (3)"], "one was left out"
    assert text_sources(tiny_recipe(tmp_path)) == {}


def test_a_run_that_could_not_measure_its_pair_is_refused_before_it_starts(
    tmp_path: Path,
) -> None:
    recipe = pair_recipe(tmp_path, write_texts(tmp_path))
    check_held_out(recipe)
    with pytest.raises(DataError, match=r"reads none. Give text with --text STAGE=FILE or --corp"):
        check_held_out(replace(tiny_recipe(tmp_path), pair=("general", "story")))
    short = written(tmp_path / "short.jsonl", [*trained_texts(50), held_out_text(2)])
    stages = list(recipe.stages)
    stages[3] = replace(stages[3], settings=replace(QUICK, sources=(short,)))
    with pytest.raises(DataError, match=r"\(short.jsonl\) only 1\d bytes are held out"):
        check_held_out(replace(recipe, stages=tuple(stages)))
