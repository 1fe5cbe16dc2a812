"""Learning rates that suit the width and the growth, and those that do not."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recipe import TRAINING, tiny_recipe

from stentor.loading import open_checkpoint_folder
from training.preflight.rates import rate_problems
from training.preflight.report import Problem
from training.preflight.stages import PlannedStage, plan_stages
from training.recipe import Stage, with_settings


@pytest.fixture
def planned(tiny_model_folder: Path) -> PlannedStage:
    model = open_checkpoint_folder(tiny_model_folder)
    shape = replace(model.shape, hidden_size=512)
    return PlannedStage(
        Stage("general", "pretrain", "General", TRAINING), shape, model.tokenizer, 0, 0
    )


def with_training(planned: PlannedStage, **values: object) -> PlannedStage:
    settings = replace(TRAINING, **values)  # type: ignore[arg-type]
    return replace(planned, stage=replace(planned.stage, settings=settings))


def told(planned: PlannedStage) -> list[Problem]:
    return list(rate_problems(planned))


@pytest.mark.parametrize(
    ("rate", "levels"),
    [(2e-4, []), (1e-3, []), (2.5e-3, ["warning"]), (3.5e-3, ["error"]), (1e-6, ["note"])],
)
def test_a_rate_is_held_against_the_width(
    planned: PlannedStage, rate: float, levels: list[str]
) -> None:
    """142M parameters of width 512 diverge beyond 3e-3; 1e-3 is what Pythia used there."""
    found = told(with_training(planned, learning_rate=rate))
    assert [problem.level for problem in found] == levels
    assert all("a width of 512" in problem.message and problem.mend for problem in found)


def test_a_clone_needs_half_the_rate(planned: PlannedStage) -> None:
    clone = replace(planned, rate_factor=0.5)
    (note,) = told(with_training(clone, learning_rate=2e-4))
    assert note.level == "note" and "acts like 0.0004" in note.message
    known = replace(clone, source_rate=4e-4)
    assert told(with_training(known, learning_rate=2e-4)) == []
    (problem,) = told(with_training(known, learning_rate=4e-4))
    assert (problem.level, problem.mend) == ("warning", "Set learning_rate to 0.0002.")
    found = told(with_training(known, learning_rate=1.6e-3))
    assert [problem.level for problem in found] == ["error", "warning"]


def test_what_a_growth_does_to_the_rate_is_found_in_the_recipe(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny_model_folder)
    recipe = with_settings(recipe, "expand", width="clone")
    stages = (recipe.stages[1], recipe.stages[0], recipe.stages[2])
    before, clone, after = plan_stages(replace(recipe, stages=stages), set(), tmp_path)[0]
    assert (before.rate_factor, before.shape.hidden_size) == (1.0, 32)
    assert (clone.rate_factor, clone.source_rate) == (0.5, TRAINING.learning_rate)
    assert (after.rate_factor, after.source_rate, after.shape.hidden_size) == (0.5, 2e-3, 64)


def test_a_full_rate_from_the_first_step_is_warned_of(planned: PlannedStage) -> None:
    cold = {"warmup_fraction": 0.0, "num_steps": 500, "learning_rate": 1e-3}
    (problem,) = told(with_training(planned, **cold))
    assert problem.level == "warning" and "carry_optimizer" in problem.mend
    assert told(with_training(planned, **cold, carry_optimizer=True)) == []
    assert told(with_training(planned, **{**cold, "num_steps": 12})) == []
    (note,) = told(with_training(planned, **{**cold, "warmup_fraction": 0.8}))
    assert note.level == "note" and "80% of the stage" in note.message
