"""The folder of an evaluation: reading, writing, and what a killed process leaves behind."""

import json
from dataclasses import replace

import pytest

from stentor.errors import OptionError, RunError
from stentor.evaluation_store import (
    RECORD_FILE,
    RESULTS_FILE,
    Evaluation,
    EvaluationSettings,
    ModelUsed,
    Result,
    append_result,
    check_settings,
    create_evaluation,
    list_evaluations,
    num_results,
    open_evaluation,
    read_results,
    summarise,
    write_evaluation,
)
from stentor.home import evaluations_folder


def make_evaluation() -> Evaluation:
    return create_evaluation(
        EvaluationSettings(category="science", seed=7),
        (ModelUsed("demo-base", "Demo base"), ModelUsed("demo-big", "Demo big")),
        suite_hash="sha256:1",
        sampling={"science": {"temperature": 0.5}},
        total=20,
        prompts_at_a_time=1,
        versions={"python": "3"},
        machine={"cores": 2},
    )


def make_result(side: int = 0, score: float | None = 0.5, category: str = "science") -> Result:
    return Result(f"{category}-01", category, "Light is", side, "demo", "fluency", score=score)


def test_what_is_written_is_read() -> None:
    evaluation = make_evaluation()
    assert open_evaluation(evaluation.id) == evaluation
    done = replace(evaluation, state="finished", finished=evaluation.started + 2)
    write_evaluation(done)
    assert open_evaluation(evaluation.id) == done
    assert list_evaluations() == [done]


def test_results_keep_odd_text_and_nan() -> None:
    evaluation = make_evaluation()
    odd = replace(make_result(), text='a\n"b" \u2028 😀 \ud800', mean_log_probability=float("nan"))
    append_result(evaluation, odd)
    (read,) = read_results(evaluation)
    assert read.text == odd.text
    assert str(read.mean_log_probability) == "nan"


def test_a_half_written_last_line_is_ignored() -> None:
    """A `kill -9` in the middle of a write must cost that line only."""
    evaluation = make_evaluation()
    append_result(evaluation, make_result(0))
    append_result(evaluation, make_result(1))
    path = evaluation.folder / RESULTS_FILE
    path.write_bytes(path.read_bytes()[:-9])
    assert [result.side for result in read_results(evaluation)] == [0]
    assert num_results(evaluation) == 1


def test_an_evaluation_from_before_a_field_existed_is_read() -> None:
    """Those made when the engine knew only fp32 name neither a device nor its threads."""
    evaluation = make_evaluation()
    path = evaluation.folder / RECORD_FILE
    values = json.loads(path.read_text())
    for model in values["models"]:
        del model["device"], model["num_threads"]
        model["precision"] = "fp32"
    path.write_text(json.dumps(values))
    (read,) = list_evaluations()
    assert [model.precision for model in read.models] == ["fp32", "fp32"]
    assert read.models[0].device is None


def test_a_torn_line_and_a_newer_field_do_not_hide_the_rest() -> None:
    evaluation = make_evaluation()
    append_result(evaluation, make_result(0))
    path = evaluation.folder / RESULTS_FILE
    newer = json.dumps({**json.loads(path.read_text()), "side": 1, "mood": "calm"})
    path.write_text(f"{path.read_text()}{{torn\n7\n{newer}\n")
    assert [result.side for result in read_results(evaluation)] == [0, 1]


def test_one_left_running_by_a_dead_process_reads_as_stopped() -> None:
    evaluation = make_evaluation()
    write_evaluation(replace(evaluation, process_start="long ago"))
    read = open_evaluation(evaluation.id)
    assert (read.state, read.finished) == ("stopped", None)
    assert "what was finished is kept" in str(read.error)


@pytest.mark.parametrize("name", ["", "..", "../runs", "a/b", "A", "x" * 65, "a.b", "-a", "a\n"])
def test_an_id_never_leaves_the_folder(name: str) -> None:
    with pytest.raises(RunError, match="is not an evaluation id"):
        open_evaluation(name)


def test_missing_damaged_and_renamed_folders_say_so_and_hide_nothing() -> None:
    good = make_evaluation()
    with pytest.raises(RunError, match="There is no evaluation 'nowhere'"):
        open_evaluation("nowhere")
    for name, text in (("damaged", "{"), ("foreign", "{}"), ("listed", "[]")):
        (evaluations_folder() / name).mkdir()
        (evaluations_folder() / name / RECORD_FILE).write_text(text)
        with pytest.raises(RunError, match="is damaged"):
            open_evaluation(name)
    (evaluations_folder() / "copy").mkdir()
    record = (good.folder / RECORD_FILE).read_text()
    (evaluations_folder() / "copy" / RECORD_FILE).write_text(record)
    with pytest.raises(RunError, match="renamed or copied"):
        open_evaluation("copy")
    (evaluations_folder() / "a file").write_text("")
    assert list_evaluations() == [good]


def test_nothing_there_yet() -> None:
    assert list_evaluations() == []
    assert read_results(make_evaluation()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"category": "sience"}, "Did you mean 'science'"),
        ({"models": ("demo-base",)}, "Models must be a list of text"),
        ({"seed": -1}, "Seed must be at least 0"),
        ({"temperature": 3.0}, "Temperature must be at most 2"),
        ({"temperature": float("nan")}, "Temperature must be a number"),
        ({"max_new_tokens": 0}, "Max new tokens must be at least 1"),
        ({"max_new_tokens": 1.5}, "must be a whole number"),
    ],
)
def test_bad_settings_are_refused_by_name(values: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_settings(replace(EvaluationSettings(), **values))  # type: ignore[arg-type]


def test_summaries_count_what_could_not_be_scored() -> None:
    results = [make_result(0, 1.0), make_result(1, None), make_result(0, 0.0), make_result(0, None)]
    first, second = summarise(results)
    assert (first.num_results, first.num_scored, first.mean) == (3, 2, 0.5)
    assert (second.side, second.num_scored, second.mean) == (1, 0, None)
