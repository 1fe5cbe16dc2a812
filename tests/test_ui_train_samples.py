"""The samples of a run, as the time machine asks for them."""

from typing import Any

import pytest

from stentor.errors import OptionError, RunError
from stentor.runs import Run, append_event, create_run
from stentor.ui.train_feed import RunFeeds
from stentor.ui.train_samples import read_samples
from training.recipe import recipe_to_json
from training.recipes import find_recipe


def add(run: Run, stage: str, step: int, point: str, text: str = " ran.", **more: Any) -> None:  # noqa: ANN401
    append_event(
        run,
        "sample",
        stage=stage,
        step=step,
        tokens=step * 2_048,
        point=point,
        prompt="The river",
        text=text,
        number=0,
        seed=7,
        settings={"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 40},
        precision="fp32",
        **more,
    )


@pytest.fixture
def run() -> Run:
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    add(run, "expand", 0, "base")
    add(run, "expand", 0, "grown")
    append_event(run, "stage_started", stage="expand", step=0, total_steps=0, tokens=0)
    append_event(run, "growth", stage="expand", loss_before=5.5, loss_after=5.75)
    append_event(run, "stage_started", stage="general", step=0, total_steps=20, tokens=0)
    append_event(run, "validation", stage="general", step=5, tokens=10_240, loss=3.25)
    add(run, "general", 5, "checkpoint", checkpoint="general-000005")
    return run


def test_positions_are_named_and_ordered_from_base_to_checkpoint(run: Run) -> None:
    reply = read_samples(RunFeeds(), {"run": run.id, "have": 0})
    samples = sorted(reply["samples"], key=lambda item: (item["order"], item["step"]))
    assert [item["key"] for item in samples] == ["base", "expand-0", "general-5"]
    assert [item["label"] for item in samples] == [
        "Base model, loss 5.50",
        "Grown, before training, loss 5.75",
        "General: short factual text, step 5, loss 3.25",
    ]
    assert samples[2]["settings"] == "temperature 0.50, top-p 0.90, 40 tokens, seed 7, fp32"


def test_a_browser_is_sent_each_sample_once(run: Run) -> None:
    feeds = RunFeeds()
    first = read_samples(feeds, {"run": run.id, "have": 0})
    assert (first["have"], first["is_whole"], len(first["samples"])) == (3, True, 3)
    add(run, "general", 10, "checkpoint")
    second = read_samples(feeds, {"run": run.id, "have": 3, "rewound": first["rewound"]})
    assert (second["have"], second["is_whole"]) == (4, False)
    assert [item["key"] for item in second["samples"]] == ["general-10"]
    assert read_samples(feeds, {"run": run.id, "have": 99})["is_whole"]


def test_a_run_of_an_earlier_version_has_one_sample_per_stage() -> None:
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    for stage, step in (("expand", 0), ("general", 20)):
        append_event(run, "sample", stage=stage, step=step, prompt="One morning the", text=" x")
    samples = read_samples(RunFeeds(), {"run": run.id, "have": 0})["samples"]
    assert [item["key"] for item in samples] == ["expand-0", "general-20"]
    assert samples[1]["label"] == "General: short factual text, step 20"
    assert samples[1]["settings"] == ""


@pytest.mark.parametrize(
    "question",
    [
        {"run": "../../etc", "have": 0},
        {"run": "missing", "have": 0},
        {"run": ["a"], "have": 0},
        {"have": 0},
        "x",
    ],
)
def test_questions_are_checked(question: Any) -> None:  # noqa: ANN401
    with pytest.raises((OptionError, RunError)):
        read_samples(RunFeeds(), question)


@pytest.mark.parametrize("have", [-1, True, "0", 1.5, None])
def test_counts_are_checked(run: Run, have: object) -> None:
    with pytest.raises(OptionError, match="whole number"):
        read_samples(RunFeeds(), {"run": run.id, "have": have})
