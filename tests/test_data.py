"""The data of a stage: what is prepared, and which step reads which windows."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stage_texts import END, SETTINGS, bytes_of, held_out_text, texts, trained_texts, written
from tokenizers import Tokenizer

from stentor.errors import DataError
from training import shards
from training.data import Place, StageData, open_stage_data, prepare_stage_data
from training.settings import WINDOW_TOKENS, PretrainSettings, Source
from training.shards import open_source


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_folder / "tokenizer.json"))


class Stage:
    """Prepares one stage in one folder and keeps what was said."""

    def __init__(self, tokenizer: Tokenizer, folder: Path) -> None:
        self.tokenizer = tokenizer
        self.folder = folder
        self.said: list[str] = []

    def prepare(
        self, *sources: Source, settings: PretrainSettings = SETTINGS, seed: int = 0
    ) -> StageData:
        return prepare_stage_data(
            sources, self.tokenizer, END, settings, self.folder, seed, self.said.append
        )

    def refusal(self, *sources: Source, settings: PretrainSettings = SETTINGS) -> str:
        with pytest.raises(DataError) as caught:
            self.prepare(*sources, settings=settings)
        return str(caught.value)


@pytest.fixture
def stage(tokenizer: Tokenizer, tmp_path: Path) -> Stage:
    return Stage(tokenizer, tmp_path / "data")


def rows(windows: torch.Tensor | NDArray[np.unsignedinteger]) -> list[tuple[int, ...]]:
    """Return windows that can be compared and counted."""
    return [tuple(window) for window in windows.tolist()]


def test_a_step_reads_windows_of_every_source_by_weight(stage: Stage, tmp_path: Path) -> None:
    long = replace(SETTINGS, num_steps=40, validation_windows=8)
    data = stage.prepare(
        written(tmp_path / "general.jsonl", texts(900, "general"), weight=75.0),
        written(tmp_path / "fiction.jsonl", texts(900, "fiction"), weight=25.0),
        settings=long,
    )
    assert data.num_training_windows == 80
    assert data.epochs == 1.0 and data.held_out_by == "documents"
    assert [(part.label, len(part.windows)) for part in data.held_out] == [
        ("general.jsonl", 6),
        ("fiction.jsonl", 2),
    ]
    places = [place for step in range(40) for place in data.places_of_step(step, 2)]
    assert Counter(place.label for place in places) == {"general.jsonl": 60, "fiction.jsonl": 20}
    assert len(set(places)) == 80, "each window once"
    assert {place.source for place in places[:8]} == {0, 1}, "from the start"
    for step in (0, 17):
        text = [stage.tokenizer.decode(row) for row in rows(data.batch_of_step(step, 2))]
        for place, words in zip(data.places_of_step(step, 2), text, strict=True):
            assert place.label.removesuffix(".jsonl") in words


def test_a_place_says_where_a_window_lies(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_WINDOWS", 4)
    data = stage.prepare(written(tmp_path / "a.jsonl", texts(300)))
    source = open_source(stage.folder / "0-a-jsonl")
    assert [len(shard) for shard in source.shards] == [4, 4, 2]
    for step in range(5):
        places = data.places_of_step(step, 2)
        found = [source.shards[place.shard][place.offset] for place in places]
        assert rows(data.batch_of_step(step, 2)) == rows(np.stack(found))
    assert data.batch_of_step(0, 2).dtype == torch.int64


def test_every_training_window_is_seen_once_an_epoch(stage: Stage, tmp_path: Path) -> None:
    data = stage.prepare(written(tmp_path / "a.jsonl", texts(300)))
    seen = [place for step in range(15) for place in data.places_of_step(step, 2)]
    epochs = [seen[first : first + 10] for first in (0, 10, 20)]
    for number, epoch in enumerate(epochs):
        assert {place.epoch for place in epoch} == {number}
        assert sorted(place.offset for place in epoch) == list(range(10))
    orders = [tuple(place.offset for place in epoch) for epoch in epochs]
    assert len(set(orders)) == 3, "each epoch has an order of its own"
    assert all(isinstance(place, Place) for place in seen)


def test_a_batch_depends_only_on_seed_and_step(stage: Stage, tmp_path: Path) -> None:
    data = stage.prepare(written(tmp_path / "a.jsonl", texts(300)), Source(name="narrative"))
    in_order = [data.batch_of_step(step, 4) for step in range(8)]
    again = open_stage_data(stage.folder, seed=0)
    for step in (7, 2, 5):
        assert torch.equal(again.batch_of_step(step, 4), in_order[step])
    assert again.fingerprint == data.fingerprint
    other = open_stage_data(stage.folder, seed=1)
    assert other.fingerprint != data.fingerprint
    assert any(not torch.equal(other.batch_of_step(step, 4), in_order[step]) for step in range(3))


def test_a_checkpoint_goes_on_only_in_the_data_it_was_trained_on(
    stage: Stage, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    source = written(tmp_path / "a.jsonl", texts(300))
    data = stage.prepare(source, Source(name="narrative"))
    saved = json.loads(json.dumps(data.position(3, 2)))
    assert [set(part) >= {"label", "epoch", "shard", "offset"} for part in saved["sources"]]
    open_stage_data(stage.folder, seed=0).check_position(saved, 3, 2)
    nexts = {part["label"]: part for part in saved["sources"]}
    first = data.places_of_step(3, 2)[0]
    assert nexts[first.label]["offset"] == first.offset, "the next window of that source"
    with pytest.raises(DataError, match=r"step 4 was trained on data with another position"):
        data.check_position(saved, 4, 2)
    written(tmp_path / "a.jsonl", texts(300, "other"))
    changed = Stage(tokenizer, tmp_path / "other").prepare(source, Source(name="narrative"))
    with pytest.raises(DataError, match=r"another text than the data folder has now .*new run"):
        changed.check_position(saved, 3, 2)
    with pytest.raises(DataError):
        changed.check_position({}, 3, 2)


def test_held_out_windows_are_never_trained_on(stage: Stage, tmp_path: Path) -> None:
    data = stage.prepare(written(tmp_path / "a.jsonl", texts(300)), Source(name="narrative"))
    held_out = torch.cat(list(data.validation_batches(2)))
    assert held_out.shape == (3, WINDOW_TOKENS) and held_out.dtype == torch.int64
    forbidden = set(rows(held_out))
    for step in range(20):
        assert not forbidden & set(rows(data.batch_of_step(step, 2)))


def test_two_stages_over_the_same_files_never_train_on_each_others_held_out_text(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Each stage split its own windows: one validated on what another had trained on."""
    sources = []
    for name in "ce":
        lines = "".join(f"{name}{number} tells of {number * 7}.\n" for number in range(40_000))
        (tmp_path / f"{name}.txt").write_text(lines)
        sources.append(Source(kind="files", paths=(str(tmp_path / f"{name}.txt"),)))
    long = PretrainSettings(num_steps=300, batch_size=4, validation_windows=8)
    short = PretrainSettings(num_steps=40, batch_size=4, validation_windows=4)
    stages = [((sources[0], sources[1]), 0, long), ((sources[1],), 9, short)]
    lines_of: list[tuple[set[str], set[str]]] = []
    for place, (chosen, seed, settings) in enumerate(stages):
        stage = Stage(tokenizer, tmp_path / f"stage{place}")
        data = stage.prepare(*chosen, settings=settings, seed=seed)
        assert data.held_out_by == "documents"
        steps = range(settings.num_steps)
        trained = torch.cat([data.batch_of_step(step, 4) for step in steps])
        held_out = torch.cat(list(data.validation_batches(4)))
        lines_of.append((lines_in(trained, tokenizer), lines_in(held_out, tokenizer)))
    for trained_lines, _ in lines_of:
        for _, held_out_lines in lines_of:
            assert len(trained_lines) > len(held_out_lines) > 20
            assert not trained_lines & held_out_lines


def lines_in(windows: torch.Tensor, tokenizer: Tokenizer) -> set[str]:
    """Return the lines that lie whole in a window."""
    texts_of = tokenizer.decode_batch(windows[:, :-1].tolist())
    return {line for text in texts_of for line in text.splitlines()[1:-1]}


def test_only_the_text_that_is_needed_is_read(stage: Stage) -> None:
    """Generated text has no end."""
    data = stage.prepare(Source(name="general"), Source(name="textbook", weight=3.0))
    assert data.num_training_windows == 10
    assert [len(part.windows) for part in data.held_out] == [1, 2]


def test_text_may_be_read_several_times_but_not_for_ever(stage: Stage, tmp_path: Path) -> None:
    short = written(tmp_path / "short.jsonl", trained_texts(16))  # 5 windows, 2 held out
    data = stage.prepare(short)
    assert data.epochs == pytest.approx(10 / 3) and data.held_out_by == "windows"
    assert stage.refusal(short, settings=replace(SETTINGS, max_epochs=3.0)) == (
        "short.jsonl would be read 3.3 times; at most 3 times is allowed. Give more text, train on "
        "fewer tokens or steps, or raise max_epochs."
    )
    message = stage.refusal(
        replace(short, weight=3.0), Source(), settings=replace(SETTINGS, num_steps=20)
    )
    assert message.startswith("short.jsonl would be read 10.0 times; at most 4 times is allowed.")
    assert "give it a smaller weight" in message
    lighter = stage.prepare(replace(short, weight=0.1), Source())
    assert lighter.epochs <= 4


def test_another_limit_does_not_prepare_the_text_again(stage: Stage, tmp_path: Path) -> None:
    short = written(tmp_path / "short.jsonl", trained_texts(16))
    stage.refusal(short, settings=replace(SETTINGS, max_epochs=1.0))
    before = bytes_of(stage.folder)
    (tmp_path / "short.jsonl").unlink()
    assert stage.prepare(short, settings=replace(SETTINGS, max_epochs=9.0)).epochs > 3
    assert bytes_of(stage.folder) == before


def test_a_blank_file_among_others_is_left_out_and_only_blank_ones_are_refused(
    stage: Stage, tmp_path: Path
) -> None:
    for name in ("empty.txt", "blank.txt"):
        (tmp_path / name).write_text("" if name == "empty.txt" else " \n\n")
    blank = [
        Source(kind="files", paths=(str(tmp_path / name),), weight=5.0)
        for name in ("empty.txt", "blank.txt")
    ]
    data = stage.prepare(blank[0], written(tmp_path / "a.jsonl", texts(300)), blank[1])
    assert [part.label for part in data.held_out] == ["a.jsonl"]
    assert [line for line in stage.said if "left out" in line] == [
        "empty.txt holds no text and is left out.",
        "blank.txt holds no text and is left out.",
    ]
    assert data.num_training_windows == 10, "the others take its share"
    assert stage.refusal(*blank).startswith("There is no text in empty.txt, blank.txt.")


@pytest.mark.parametrize("text", ["a", "word " * 100])
def test_a_corpus_of_a_token_is_refused(stage: Stage, tmp_path: Path, text: str) -> None:
    message = stage.refusal(written(tmp_path / "tiny.jsonl", [text]))
    assert f"The text of tiny.jsonl ({len(text)} characters) is shorter than two" in message
    assert not (stage.folder / "manifest.json").exists()


def test_a_text_that_was_too_short_may_grow(stage: Stage, tmp_path: Path) -> None:
    """One window of it was on disk: a resumed run called the text empty, whatever was added."""
    source = written(tmp_path / "a.jsonl", ["a"] * 300)
    message = stage.refusal(source)
    assert "is shorter than two windows" in message
    assert stage.refusal(source) == message
    written(tmp_path / "a.jsonl", texts(300))
    assert stage.prepare(source).num_training_windows == 10


def test_a_corpus_of_one_token_over_and_over_is_text(stage: Stage, tmp_path: Path) -> None:
    data = stage.prepare(written(tmp_path / "a.jsonl", ["a"] * 20_000))
    assert set(data.batch_of_step(0, 2).flatten().tolist()) == {
        END,
        stage.tokenizer.token_to_id("a"),
    }


def test_a_line_of_many_megabytes_is_text(stage: Stage, tmp_path: Path) -> None:
    """It is held out or trained on as one document; either way both parts get windows."""
    for name, word in (("trained", "The river runs past the mill. "), ("kept", None)):
        line = word * 100_000 if word else held_out_text(300_000)
        (tmp_path / f"{name}.txt").write_text(line)
        source = Source(kind="files", paths=(str(tmp_path / f"{name}.txt"),))
        data = stage.prepare(source)
        assert data.num_training_windows == 10 and data.held_out_by == "windows"


def test_a_finished_preparation_is_never_repeated(stage: Stage, tmp_path: Path) -> None:
    source = written(tmp_path / "a.jsonl", texts(300))
    first = stage.prepare(source)
    (tmp_path / "a.jsonl").unlink()
    times = {path: path.stat().st_mtime_ns for path in stage.folder.rglob("*.bin")}
    assert stage.prepare(source).fingerprint == first.fingerprint
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_stage_killed_between_its_sources_keeps_the_finished_one(
    stage: Stage, tmp_path: Path
) -> None:
    a, b = (written(tmp_path / f"{name}.jsonl", texts(300, name)) for name in "ab")
    whole = stage.prepare(a, b)
    expected = bytes_of(stage.folder)
    shutil.rmtree(stage.folder / "1-b-jsonl")
    (stage.folder / "manifest.json").unlink()
    before = (stage.folder / "0-a-jsonl" / "train-00000.bin").stat().st_mtime_ns
    assert stage.prepare(a, b).fingerprint == whole.fingerprint
    assert bytes_of(stage.folder) == expected
    assert (stage.folder / "0-a-jsonl" / "train-00000.bin").stat().st_mtime_ns == before


def test_data_that_is_not_finished_cannot_be_opened(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished data"):
        open_stage_data(stage.folder, 0)
    stage.prepare(written(tmp_path / "a.jsonl", texts(300)))
    (stage.folder / "0-a-jsonl" / "train-00000.bin").unlink()
    with pytest.raises(DataError, match="is not complete"):
        open_stage_data(stage.folder, 0)
