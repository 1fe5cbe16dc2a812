"""Users who press at the same moment: all served, seeds and prompts differ, failures are told."""

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_variants import poison

from stentor.bench.random_checkpoint import SHAPES
from stentor.bench.rooms import merged, press, press_repeatedly, seconds_of
from stentor.bench.subjects import make_prompts, open_subjects
from stentor.engine.engine import Engine
from stentor.engine.sampling import SamplingSettings
from stentor.engine.threads import ThreadBudget
from stentor.errors import ModelError
from stentor.peers.protocol import MAX_RUNS, Run

SETTINGS = SamplingSettings(temperature=1.0, max_new_tokens=6)


@pytest.fixture
def engine(tiny_model_folder: Path, tmp_path: Path) -> Iterator[Engine]:
    (subject,) = open_subjects([str(tiny_model_folder)], False, tmp_path)
    engine = Engine(subject.checkpoint, precision="fp32", threads=ThreadBudget(1))
    yield engine
    engine.close()


def test_everybody_is_served_and_times_are_in_order(
    engine: Engine, tiny_model_folder: Path, tmp_path: Path
) -> None:
    (subject,) = open_subjects([str(tiny_model_folder)], False, tmp_path)
    prompts = make_prompts(subject.checkpoint, 5, 12)
    (run,) = press([(engine, prompts)], SETTINGS)
    assert run.num_tokens == 30
    assert len(run.first_seconds) == len(run.last_seconds) == 5
    for first, last in zip(run.first_seconds, run.last_seconds, strict=True):
        assert 0.0 < first < last
    assert engine.num_free_slots == engine.num_slots


def test_short_runs_are_repeated_and_several_rooms_are_one_press(engine: Engine) -> None:
    rooms = [(engine, [(1, 2, 3)]), (engine, [(4, 5, 6)])]
    pressed = press_repeatedly(rooms, SETTINGS)
    assert 1 <= len(pressed) <= MAX_RUNS
    assert all(len(runs) == 2 for runs in pressed)


def test_a_failed_generation_is_no_figure(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Half a room's tokens in half a room's time would look like a fast engine."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "poisoned")
    poison(folder, 2)
    (subject,) = open_subjects([str(folder)], False, tmp_path)
    engine = Engine(subject.checkpoint, precision="fp32", threads=ThreadBudget(1))
    with pytest.raises(ModelError, match="NaN"):
        press([(engine, [(1, 2, 3)])], SETTINGS)
    engine.close()


def test_runs_of_several_rooms_become_one() -> None:
    runs = (Run((1.0,), (2.0,), 4), Run((3.0, 4.0), (5.0, 6.0), 8))
    assert merged(runs) == Run((1.0, 3.0, 4.0), (2.0, 5.0, 6.0), 12)
    assert seconds_of(runs) == 6.0


def test_prompts_are_different_and_as_long_as_asked(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    (subject,) = open_subjects([str(tiny_model_folder)], False, tmp_path)
    assert subject.checkpoint.end_tokens == frozenset()
    prompts = make_prompts(subject.checkpoint, 30, 12)
    assert {len(prompt) for prompt in prompts} == {12}
    assert all(one != other for one, other in itertools.combinations(prompts, 2))
    (long,) = make_prompts(subject.checkpoint, 1, 100_000)  # longer than all prompts together
    assert len(long) == 100_000


def test_the_shapes_can_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"small": replace(SHAPES["stentor-30m"], num_layers=1)}
    monkeypatch.setattr("stentor.bench.subjects.SHAPES", shapes)
    (subject,) = open_subjects([], True, tmp_path)
    assert (subject.name, subject.weights) == ("small-shape", "random")
    assert subject.checkpoint.shape == shapes["small"]
