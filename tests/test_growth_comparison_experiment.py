"""training/growth_comparison end to end: a real, tiny comparison, its resumption and its flags."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
from growth_results import plan_of

from stentor.errors import INTERRUPTED, DataError, OptionError, TrainingError
from stentor.loading import LlamaShape, open_checkpoint_folder
from training.checkpoint import load_model
from training.growth_comparison.command import add_flags, read_options, run
from training.growth_comparison.experiment import (
    half_difference,
    start_model,
    target_of,
    train_run,
)
from training.growth_comparison.options import CONTINUED, DEFAULT_STRATEGY, SCRATCH
from training.growth_comparison.page import PAGE_FILE
from training.growth_comparison.plan import PLAN_FILE, Target, read_plan
from training.growth_comparison.report import SUMMARY_FILE
from training.growth_comparison.results import RESULTS_FILE, Result, read_results

CLONE = "clone:none+identity_interleave"
STRATEGIES = (CONTINUED, SCRATCH, DEFAULT_STRATEGY, "slice+random_top", CLONE)
FLAGS = ("--steps", "3", "--batch-size", "2", "--validation-windows", "2", "--threads", "1")

# Where the comparison looks for what trains one model.
TRAIN_RUN = "training.growth_comparison.comparison.train_run"


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    return parser.parse_args(arguments)


def compare(folder: Path, model: Path, *flags: str) -> int:
    return run(parse("--model", str(model), "--output", str(folder), *FLAGS, *flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """Return the folder of a comparison of five strategies and two seeds."""
    folder = tmp_path_factory.mktemp("growth") / "comparison"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(folder.parent / "home"))
        assert compare(folder, tiny_model_folder, "--seeds", "2", "--strategies", *STRATEGIES) == 0
    return folder


def results_of(folder: Path) -> dict[tuple[str, int], Result]:
    return {(result.strategy, result.seed): result for result in read_results(folder)}


def test_a_comparison_leaves_results_summary_and_chart(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {RESULTS_FILE, SUMMARY_FILE, PAGE_FILE, PLAN_FILE} <= names
    summary = json.loads((finished / SUMMARY_FILE).read_text())
    assert summary["num_runs_missing"] == 0
    assert len(summary["arms"]) == len(STRATEGIES)
    assert summary["plan"]["target"] == vars(Target(64, 128, 3, 4))
    assert summary["source_flops"] is None
    assert set(results_of(finished)) == {(s, seed) for s in STRATEGIES for seed in (0, 1)}


def test_exact_growth_begins_at_the_source_and_slices_do_not(finished: Path) -> None:
    results = results_of(finished)
    start = results[CONTINUED, 0].points[0].validation_loss
    for strategy in (DEFAULT_STRATEGY, CLONE):
        result = results[strategy, 0]
        assert result.points[0].validation_loss == pytest.approx(start, abs=1e-4)
        assert result.max_logit_difference is not None
        assert result.max_logit is not None
        assert result.max_logit_difference < 1e-4 * result.max_logit
    sliced = results["slice+random_top", 0]
    assert abs(sliced.points[0].validation_loss - start) > 1e-3
    assert results[CONTINUED, 0].max_logit_difference is None


def test_runs_are_measured_from_before_the_first_step_to_the_last(finished: Path) -> None:
    for result in read_results(finished):
        assert [point.step for point in result.points] == [0, 1, 2, 3]
        assert result.points[-1].tokens == 3 * 2 * 512
        assert result.error is None
    results = results_of(finished)
    small, large = results[CONTINUED, 0], results[SCRATCH, 0]
    assert large.num_parameters > small.num_parameters
    assert large.flops_per_token > small.flops_per_token
    assert small.final_loss < small.points[0].validation_loss


def test_a_clone_without_a_break_keeps_equal_halves(finished: Path) -> None:
    """The symmetry lock: gradients of both halves are the same, so they never come apart."""
    results = results_of(finished)
    assert {point.half_difference for point in results[CLONE, 0].points} == {0.0}
    assert results[DEFAULT_STRATEGY, 0].points[0].half_difference is None


def test_a_clone_learns_at_half_the_rate(finished: Path) -> None:
    results = results_of(finished)
    assert results[CLONE, 0].learning_rate == results[CONTINUED, 0].learning_rate / 2


def test_seeds_differ_in_batches_and_share_the_held_out_text(finished: Path) -> None:
    results = results_of(finished)
    first, second = results[CONTINUED, 0], results[CONTINUED, 1]
    assert first.points[0] == second.points[0]
    assert first.final_loss != second.final_loss


def test_a_finished_comparison_is_reported_again_and_not_run_again(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / RESULTS_FILE).read_bytes()
    monkeypatch.setattr(TRAIN_RUN, None)
    assert run(parse("--output", str(finished), "--threads", "1")) == 0
    assert (finished / RESULTS_FILE).read_bytes() == before
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(last["final_losses"]) == set(STRATEGIES)


def test_ctrl_c_keeps_what_is_done_and_a_rerun_goes_on(
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = ("--strategies", CONTINUED, DEFAULT_STRATEGY)

    def train_until_ctrl_c(*arguments: object) -> Result:
        if DEFAULT_STRATEGY in arguments:
            raise KeyboardInterrupt
        return train_run(*arguments)  # type: ignore[arg-type]

    folder = tmp_path / "a folder"
    monkeypatch.setattr(TRAIN_RUN, train_until_ctrl_c)
    assert compare(folder, tiny_model_folder, *whole) == INTERRUPTED
    assert [result.strategy for result in read_results(folder)] == [CONTINUED]
    shown = capsys.readouterr().out
    assert f"--output '{folder}'" in shown
    assert json.loads(shown.splitlines()[-1])["num_runs_missing"] == 1
    first = (folder / RESULTS_FILE).read_bytes()

    monkeypatch.setattr(TRAIN_RUN, train_run)
    assert run(parse("--output", str(folder), "--threads", "1")) == 0
    assert (folder / RESULTS_FILE).read_bytes().startswith(first)
    assert set(results_of(folder)) == {(CONTINUED, 0), (DEFAULT_STRATEGY, 0)}

    # The same comparison without an interruption gives the same losses.
    assert compare(tmp_path / "other", tiny_model_folder, *whole) == 0
    other = results_of(tmp_path / "other")
    assert {key: r.points for key, r in results_of(folder).items()} == {
        key: r.points for key, r in other.items()
    }


def test_another_comparison_needs_another_folder(finished: Path) -> None:
    with pytest.raises(OptionError, match="steps 3, not 4"):
        run(parse("--output", str(finished), "--steps", "4"))
    with pytest.raises(OptionError, match="model"):
        run(parse("--output", str(finished), "--model", "demo-base"))


def test_the_steps_are_sized_by_a_rehearsal(tiny_model_folder: Path, tmp_path: Path) -> None:
    flags = ("--batch-size", "2", "--validation-windows", "2", "--minutes", "0.1", "--threads", "1")
    folder = tmp_path / "sized"
    model = ("--model", str(tiny_model_folder), "--output", str(folder))
    assert run(parse(*model, *flags, "--strategies", CONTINUED, DEFAULT_STRATEGY)) == 0
    plan = read_plan(folder)
    assert plan is not None
    assert plan.steps >= 4
    assert plan.predicted_seconds > 0


def test_given_text_is_trained_on(tiny_model_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("The miller counts the sacks of grain while the lamp burns low.\n" * 3000)
    folder = tmp_path / "text"
    assert compare(folder, tiny_model_folder, "--text", str(text), "--strategies", CONTINUED) == 0
    summary = json.loads((folder / SUMMARY_FILE).read_text())
    assert summary["text"] == "own.txt"
    assert summary["plan"]["text"] == [str(text)]


def test_a_strategy_that_cannot_serve_is_refused_before_anything_runs(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    flags = ("--hidden-size", "48", "--num-heads", "3")
    with pytest.raises(TrainingError):
        compare(tmp_path / "none", tiny_model_folder, *flags, "--strategies", CLONE)
    assert not (tmp_path / "none").exists()


def test_a_run_that_diverges_is_a_result(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "diverged"
    wild = ("--learning-rate", "1", "--rate-factors", "1", "100", "--strategies", CONTINUED)
    compare(folder, tiny_model_folder, *wild)
    assert len(read_results(folder)) == 2


def test_the_target_follows_from_the_small_model() -> None:
    """Doubled, and ten layers for seven: how both pairs of the playground grew."""
    from_card = open_shape(21, 256, 1024, 4)
    assert target_of(from_card, None, None, None, None) == Target(512, 2048, 30, 8)
    assert target_of(from_card, 1024, None, 22, None) == Target(1024, 2048, 22, 8)


def test_half_difference_is_about_one_for_unrelated_halves(tiny_model_folder: Path) -> None:
    parent = open_checkpoint_folder(tiny_model_folder)
    plan = replace(plan_of(), target=Target(64, 128, 3, 4))
    model, _ = start_model(parent, plan, SCRATCH, 0)
    assert half_difference(model, parent.shape) == pytest.approx(1.0, abs=0.1)
    assert half_difference(load_model(parent), parent.shape) is None


def test_flags_parse_into_options() -> None:
    options, given = read_options(parse("--seeds", "2", "--strategies", "scratch", "continued"))
    assert options.strategies == ("scratch", "continued")
    assert options.seeds == 2
    assert options.model == "demo-base"
    assert set(given) == {"seeds", "strategies"}
    assert read_options(parse())[1] == ()
    with pytest.raises(OptionError, match="Seeds"):
        read_options(parse("--seeds", "0"))


def open_shape(num_layers: int, hidden: int, intermediate: int, num_heads: int) -> LlamaShape:
    return LlamaShape(
        vocab_size=320,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=num_layers,
        num_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=hidden // num_heads,
        context_length=512,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        is_tied=True,
    )


def test_text_that_is_missing_or_too_short_is_refused_and_leaves_no_plan(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Once, the plan was stored first, and the folder could not be used with more text."""
    folder, text = tmp_path / "short", tmp_path / "short.txt"
    flags = ("--text", str(text), "--strategies", CONTINUED)
    with pytest.raises(DataError, match=r"short\.txt does not exist"):
        compare(folder, tiny_model_folder, *flags)
    text.write_text("Too short.\n")
    with pytest.raises(DataError, match="more text"):
        compare(folder, tiny_model_folder, *flags)
    text.write_text("The miller counts the sacks of grain.\n" * 3000)
    assert compare(folder, tiny_model_folder, *flags) == 0
