"""A run that a test seems to be doing, step by step, and what a browser shows of it."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from browser_page import Visit
from playwright.sync_api import Page
from tiny_recipe import PATIENCE_SECONDS

from stentor.runs import Run, Status, append_event, create_run, process_start, write_status
from training.recipe import recipe_to_json
from training.recipes import find_recipe

TOKENS_PER_STEP = 2_048
LOSS = "document.querySelector('.chart').data?.find(line => line.uid === 'loss')"
NUM_POINTS = f"({LOSS}?.x.length ?? 0)"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PROMPT, BASE_TEXT = "The river", " a a b b b b."


def make_live_run() -> Run:
    """Return a practice run that this process seems to be doing, three steps into its stage."""
    run = create_run(recipe_to_json(find_recipe("practice")), "practice")
    append_sample(run, "expand", 0, "base", BASE_TEXT)
    append_event(run, "stage_started", stage="general", step=0, total_steps=20, tokens=0)
    append_event(run, "validation", stage="general", step=0, tokens=0, loss=5.2)
    keep_checkpoint(run, "expand-000000")
    for step in (1, 2, 3):
        append_step(run, step)
    set_state(run, "running")
    return run


def set_state(run: Run, state: str, **more: Any) -> None:  # noqa: ANN401
    """Write a status of this test's own process, so that a running run is alive."""
    pid = os.getpid()
    status = Status(
        state=state,
        pid=pid,
        process_start=process_start(pid),
        stage="general",
        step=3,
        total_steps=20,
        finished_stages=("expand",),
    )
    write_status(run, replace(status, **more))


def append_step(run: Run, step: int) -> None:
    """Write what the trainer says after a step; the loss falls by a tenth each."""
    append_event(
        run,
        "metrics",
        stage="general",
        step=step,
        tokens=step * TOKENS_PER_STEP,
        loss=5.0 - step / 10,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens_per_second=900.0,
    )


def append_sample(run: Run, stage: str, step: int, point: str, text: str) -> None:
    """Write what the model made of PROMPT at a position."""
    append_event(
        run,
        "sample",
        stage=stage,
        step=step,
        tokens=step * TOKENS_PER_STEP,
        point=point,
        number=0,
        prompt=PROMPT,
        text=text,
        seed=7,
        settings={"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 40},
        precision="fp32",
    )


def keep_checkpoint(run: Run, name: str) -> None:
    """Leave a checkpoint folder that is good for its name and size only."""
    (run.checkpoints_folder / name).mkdir()
    (run.checkpoints_folder / name / "model.safetensors").write_bytes(b"0" * 3_000)


def wait_for_points(visitor: Visit, count: int) -> None:
    """Wait until the loss has so many points."""
    visitor.page.wait_for_function(f"{NUM_POINTS} === {count}")


def wait_for_text(visitor: Visit, part: str, text: str) -> None:
    """Wait until a part of the page shows a text."""
    visitor.page.locator(f"[data-part={part}]", has_text=text).first.wait_for()


def wait_until(page: Page, is_so: Callable[[], bool]) -> None:
    """Let the page work until something is so on disk."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
