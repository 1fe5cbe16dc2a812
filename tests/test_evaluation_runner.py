"""Evaluations on the real engine with a tiny model: running, stopping, limits."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watched_decoder import WatchedDecoder

from stentor import evaluation_runner, evaluation_work
from stentor.engine.engine import NUM_SLOTS, Engine, GenerationRequest
from stentor.engine.room import MAX_WAITING
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import Stream
from stentor.errors import ModelError, OptionError, RunError
from stentor.evaluation_runner import EvaluationRunner
from stentor.evaluation_store import (
    EvaluationSettings,
    list_evaluations,
    num_results,
    open_evaluation,
    read_results,
)
from stentor.evaluation_work import PROMPTS_AT_A_TIME, sampling_for
from stentor.prompts import categories, find_category, prompts_of, suite_hash
from stentor.store import ModelStore, prepare_prompt

WAIT_SECONDS = 60.0


@pytest.fixture
def store() -> Iterator[ModelStore]:
    with ModelStore(num_threads=1) as models:
        yield models


@pytest.fixture
def runner(store: ModelStore) -> Iterator[EvaluationRunner]:
    evaluations = EvaluationRunner(store)
    yield evaluations
    evaluations.close()


@pytest.fixture
def quick(tiny_model_folder: Path) -> EvaluationSettings:
    folder = str(tiny_model_folder)
    return EvaluationSettings("mathematics", (folder, folder), seed=3, max_new_tokens=4)


@pytest.fixture
def long(tiny_model_folder: Path) -> EvaluationSettings:
    folder = str(tiny_model_folder)
    return EvaluationSettings("all", (folder, folder), temperature=2.0, max_new_tokens=400)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_every_category_means_allowed_sampling_settings() -> None:
    for category in categories().values():
        sampling = sampling_for(category, EvaluationSettings(seed=9))
        expected = (category.temperature, category.max_new_tokens, 9)
        assert (sampling.temperature, sampling.max_new_tokens, sampling.seed) == expected
    cold = sampling_for(find_category("science"), EvaluationSettings(temperature=0))
    assert (cold.temperature, cold.max_new_tokens) == (0.0, 80)


def test_a_category_runs_through_both_models(
    runner: EvaluationRunner, store: ModelStore, quick: EvaluationSettings
) -> None:
    evaluation_id = runner.start(quick, "me")
    assert runner.running("me") in (evaluation_id, None)
    assert runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert (evaluation.state, evaluation.error, evaluation.total) == ("finished", None, 20)
    assert evaluation.suite_hash == suite_hash()
    assert evaluation.sampling["mathematics"]["temperature"] == 0.1
    assert evaluation.sampling["mathematics"]["max_new_tokens"] == 4
    assert evaluation.sampling["mathematics"]["seed"] == 3
    assert evaluation.versions["torch"].startswith("2.")
    assert evaluation.finished is not None and evaluation.finished >= evaluation.started
    checkpoint = store.load(quick.models[0]).checkpoint
    for model in evaluation.models:
        assert model.revision == checkpoint.revision
        assert model.num_parameters == checkpoint.num_parameters
    results = read_results(evaluation)
    expected = {(prompt.id, side) for prompt in prompts_of("mathematics") for side in (0, 1)}
    assert {(result.prompt_id, result.side) for result in results} == expected
    assert all(result.score in (0.0, 1.0) and result.error is None for result in results)
    assert all((result.mean_log_probability or -1.0) < 0 for result in results)


def test_both_sides_get_the_seed_and_settings_and_so_the_same_text(
    runner: EvaluationRunner, store: ModelStore, quick: EvaluationSettings
) -> None:
    """The same model twice must answer alike: that is what a fair comparison rests on."""
    evaluation_id = runner.start(quick, "me")
    runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    texts = {(item.prompt_id, item.side): item.text for item in read_results(evaluation)}
    loaded = store.load(quick.models[0])
    settings = sampling_for(find_category("mathematics"), quick)
    for prompt in prompts_of("mathematics"):
        ids = prepare_prompt(loaded, prompt.text).token_ids
        stream = loaded.engine.submit(GenerationRequest(ids, settings, "someone"))
        stream.wait(WAIT_SECONDS)
        assert texts[prompt.id, 0] == texts[prompt.id, 1] == stream.snapshot().text


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_what_is_written_down_is_how_the_engine_computed(
    quick: EvaluationSettings, precision: str
) -> None:
    """The record once said fp32 whatever the engine did."""
    with ModelStore(num_threads=1, precision=precision) as store:
        runner = EvaluationRunner(store)
        evaluation_id = runner.start(quick, "me")
        assert runner.wait(evaluation_id, WAIT_SECONDS)
    for model in open_evaluation(evaluation_id).models:
        assert (model.precision, model.device, model.num_threads) == (precision, "cpu", 1)


def crowd(engine: Engine, number: int) -> list[Stream]:
    """Let many visitors ask for a few tokens each."""
    settings = SamplingSettings(max_new_tokens=5)
    return [
        engine.submit(GenerationRequest((1, 2), settings, f"visitor {place}"))
        for place in range(number)
    ]


@pytest.fixture
def full_room(store: ModelStore, tiny_model_folder: Path) -> Iterator[WatchedDecoder]:
    """Return the held decoder of an engine that has given all its slots to visitors."""
    engine = store.load(str(tiny_model_folder)).engine
    decoder = WatchedDecoder(engine, is_held=True)
    streams = crowd(engine, NUM_SLOTS)
    decoder.advance(2)  # the first step was chosen when the first visitor came
    assert engine.num_free_slots == 0
    yield decoder
    decoder.release()
    assert all(stream.wait(WAIT_SECONDS) for stream in streams)


def test_an_evaluation_fills_the_batch(
    runner: EvaluationRunner, store: ModelStore, long: EvaluationSettings
) -> None:
    """The engine decodes eight texts in little more than the time of one."""
    engine = store.load(long.models[0]).engine
    decoder = WatchedDecoder(engine, is_held=True)
    runner.start(long, "me")
    wait_for(lambda: engine.num_requests == 2 * PROMPTS_AT_A_TIME)  # both sides are this model
    decoder.release()


def test_visitors_come_first(
    runner: EvaluationRunner,
    store: ModelStore,
    long: EvaluationSettings,
    full_room: WatchedDecoder,
) -> None:
    """In a full room an evaluation stands in line once for each side, not with all its prompts."""
    engine = store.load(long.models[0]).engine
    runner.start(long, "me")
    wait_for(lambda: engine.num_requests == NUM_SLOTS + 2)
    time.sleep(0.1)
    assert engine.num_requests == NUM_SLOTS + 2
    full_room.release()


def test_an_evaluation_that_is_refused_for_now_tries_again(
    runner: EvaluationRunner,
    store: ModelStore,
    quick: EvaluationSettings,
    full_room: WatchedDecoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A room that is too full for one more must not cost a result, let alone the evaluation."""
    monkeypatch.setattr(evaluation_work, "RETRY_SECONDS", 0.02)
    engine = store.load(quick.models[0]).engine
    crowd(engine, MAX_WAITING)
    evaluation_id = runner.start(quick, "me")
    wait_for(lambda: open_evaluation(evaluation_id).models[1].revision)
    assert not runner.wait(evaluation_id, 0.1)
    assert engine.num_requests == NUM_SLOTS + MAX_WAITING
    full_room.release()
    assert runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert evaluation.state == "finished"
    assert [result.error for result in read_results(evaluation)] == [None] * 20


def test_stop_frees_the_engine_and_keeps_what_is_finished(
    runner: EvaluationRunner, store: ModelStore, long: EvaluationSettings
) -> None:
    evaluation_id = runner.start(long, "me")
    running = open_evaluation(evaluation_id)
    assert running.state == "running"
    wait_for(lambda: num_results(running) >= 1)
    runner.stop(evaluation_id)
    assert runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert evaluation.state == "stopped" and evaluation.finished is not None
    results = read_results(evaluation)
    assert 1 <= len(results) < evaluation.total
    assert "stopped" not in {result.stop_reason for result in results}
    engine = store.load(long.models[0]).engine
    wait_for(lambda: engine.num_requests == 0)
    runner.stop(evaluation_id)  # once more is harmless
    assert runner.running("me") is None


def test_one_per_session_and_few_in_the_app(
    runner: EvaluationRunner, long: EvaluationSettings
) -> None:
    first = runner.start(long, "session 0")
    with pytest.raises(RunError, match="of yours is still running"):
        runner.start(long, "session 0")
    for number in range(1, evaluation_runner.MAX_RUNNING):
        runner.start(long, f"session {number}")
    with pytest.raises(RunError, match="the most for this app"):
        runner.start(long, "one more")
    assert len(list_evaluations()) == evaluation_runner.MAX_RUNNING
    runner.stop(first)
    runner.wait(first, WAIT_SECONDS)
    assert runner.running("session 0") is None
    runner.start(long, "one more")


def test_bad_requests_are_refused_before_a_folder_is_made(
    runner: EvaluationRunner, quick: EvaluationSettings
) -> None:
    with pytest.raises(ModelError, match="Folders cannot be opened from here"):
        runner.start(quick, "stranger", allow_folders=False)
    with pytest.raises(OptionError, match="Did you mean 'demo-base'"):
        runner.start(EvaluationSettings(models=("demo-bas", "demo-big")), "me")
    with pytest.raises(RunError, match="There is no evaluation"):
        runner.stop("nowhere")
    assert list_evaluations() == []


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(
    runner: EvaluationRunner, quick: EvaluationSettings, tmp_path: Path
) -> None:
    settings = EvaluationSettings("mathematics", (quick.models[0], str(tmp_path)))
    evaluation_id = runner.start(settings, "me")
    runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert evaluation.state == "failed"
    assert "is missing" in str(evaluation.error)


def test_a_prompt_that_one_model_cannot_take_does_not_end_the_rest(
    runner: EvaluationRunner, quick: EvaluationSettings, tmp_path: Path
) -> None:
    """A short context refuses the long prompts; the others and the other model go on."""
    short = tmp_path / "short"
    shutil.copytree(quick.models[0], short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40}))
    settings = EvaluationSettings("mathematics", (quick.models[0], str(short)), max_new_tokens=2)
    evaluation_id = runner.start(settings, "me")
    runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert evaluation.state == "finished"
    results = read_results(evaluation)
    refused = [result for result in results if result.error]
    assert len(results) == 20 and 0 < len(refused) < 10
    assert {result.side for result in refused} == {1}
    assert "tokens" in str(refused[0].error) and refused[0].score is None


def test_a_model_rewritten_between_two_prompts_ends_the_evaluation(
    runner: EvaluationRunner, long: EvaluationSettings, tmp_path: Path
) -> None:
    """Half a table of one checkpoint and half of another would be no evaluation of either."""
    changing = tmp_path / "changing"
    shutil.copytree(long.models[0], changing)
    evaluation_id = runner.start(EvaluationSettings("all", (long.models[0], str(changing))), "me")
    running = open_evaluation(evaluation_id)
    wait_for(lambda: num_results(running) >= 2)
    weights = changing / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    beside = tmp_path / "beside"
    beside.write_bytes(content)
    os.utime(beside, ns=(1, 1))
    beside.replace(weights)  # in one step, or the runner may meet a file that is cut short
    assert runner.wait(evaluation_id, WAIT_SECONDS)
    evaluation = open_evaluation(evaluation_id)
    assert evaluation.state == "failed" and "was replaced while" in str(evaluation.error)


def test_a_store_that_closes_does_not_leave_cut_off_texts_behind(
    store: ModelStore, long: EvaluationSettings
) -> None:
    runner = EvaluationRunner(store)
    evaluation_id = runner.start(long, "me")
    wait_for(lambda: num_results(open_evaluation(evaluation_id)) >= 1)
    store.close()
    runner.close()
    reasons = {result.stop_reason for result in read_results(open_evaluation(evaluation_id))}
    assert "stopped" not in reasons
