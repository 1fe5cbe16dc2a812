"""Two streams side by side: pace, stop, continue, errors of one side, and nothing left behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stentor.engine.sampling import SamplingSettings
from stentor.store import ModelStore
from stentor.ui.compare_generation import SIDES, Desk, Output, SideRequest, generate

PROMPT = "The river runs"
LONG = SamplingSettings(max_new_tokens=400, temperature=1.0)
SHORT = SamplingSettings(max_new_tokens=12, temperature=1.0, seed=3)


@pytest.fixture
def store() -> Iterator[ModelStore]:
    with ModelStore(num_threads=1) as store:
        yield store


def both(folder: Path, settings: SamplingSettings, prompt: str = PROMPT) -> dict[str, SideRequest]:
    return {side: SideRequest(str(folder), prompt, "refuse", settings) for side in SIDES}


def last_of(
    store: ModelStore, requests: dict[str, SideRequest], desk: Desk | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, Output | None]]:
    *_, last = generate(store, desk or Desk(), "me", requests, allow_folders=True)
    return last


def test_both_sides_fill_and_end_with_a_reason(store: ModelStore, tiny_model_folder: Path) -> None:
    views, outputs = last_of(store, both(tiny_model_folder, SHORT))
    for side in SIDES:
        assert views[side]["state"] == "done"
        assert "tokens/s" in views[side]["figures"]
        output = outputs[side]
        assert output is not None
        assert output.text == views[side]["text"]
    assert views["left"]["text"] == views["right"]["text"]  # same model, settings and seed


def test_stopping_one_side_leaves_the_other_running(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    desk = Desk()
    endless = both(tiny_model_folder, LONG)
    views: dict[str, dict[str, Any]] = {}
    for changed, _ in generate(store, desk, "me", endless, allow_folders=True):
        views.update(changed)
        if views.get("right", {}).get("text"):
            desk.stop("me", ("left",))
    assert "stopped" in views["left"]["figures"]
    assert "stopped" not in views["right"]["figures"]


def test_a_closed_browser_frees_its_slots(store: ModelStore, tiny_model_folder: Path) -> None:
    updates = generate(store, Desk(), "me", both(tiny_model_folder, LONG), allow_folders=True)
    for changed, _ in updates:
        if changed.get("left", {}).get("text"):
            break
    updates.close()  # type: ignore[attr-defined]
    engine = store.load(str(tiny_model_folder)).engine
    for _ in range(200):
        if engine.num_requests == 0:
            return
        last_of(store, both(tiny_model_folder, SHORT))  # others are served meanwhile
    pytest.fail("the requests of a closed browser still hold their slots")


def test_a_newer_generation_ends_the_older_one(store: ModelStore, tiny_model_folder: Path) -> None:
    desk = Desk()
    older = generate(store, desk, "me", both(tiny_model_folder, LONG), allow_folders=True)
    for changed, _ in older:
        if changed.get("left", {}).get("text"):
            break
    newer, _ = last_of(store, both(tiny_model_folder, SHORT), desk)
    assert newer["left"]["state"] == "done"
    assert list(older) == []  # it says nothing more, so it cannot overwrite the newer text


def test_continuing_gives_what_one_longer_generation_gives(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    _, first = last_of(store, both(tiny_model_folder, SHORT))
    requests = {
        side: SideRequest(str(tiny_model_folder), PROMPT, "refuse", SHORT, earlier=first[side])
        for side in SIDES
    }
    _, second = last_of(store, requests)
    longer = SamplingSettings(max_new_tokens=24, temperature=1.0, seed=3)
    _, whole = last_of(store, both(tiny_model_folder, longer))
    assert second["left"] is not None and first["left"] is not None
    assert whole["left"] is not None
    assert second["left"].token_ids == whole["left"].token_ids
    assert second["left"].text.startswith(first["left"].text)


def test_one_broken_side_does_not_stop_the_other(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    requests = both(tiny_model_folder, SHORT)
    requests["left"] = SideRequest("/nowhere/at-all", PROMPT, "refuse", SHORT)
    views, outputs = last_of(store, requests)
    assert views["left"]["state"] == "error"
    assert "/nowhere/at-all" in views["left"]["message"]
    assert outputs["left"] is None
    assert views["right"]["state"] == "done"


def test_a_long_prompt_is_refused_or_cut_and_says_so(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    prompt = "river " * 900
    views, _ = last_of(store, both(tiny_model_folder, SHORT, prompt))
    assert views["left"]["state"] == "error"
    assert "512" in views["left"]["message"]
    cut = {side: SideRequest(str(tiny_model_folder), prompt, "truncate", SHORT) for side in SIDES}
    views, _ = last_of(store, cut)
    assert views["left"]["state"] == "done"
    assert "left out" in views["left"]["message"]


def test_stop_counts_also_while_the_model_is_still_being_loaded(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    """Stop once found no stream to cancel then, and both sides ran to their end."""
    desk = Desk()
    updates = generate(store, desk, "me", both(tiny_model_folder, LONG), allow_folders=True)
    first, _ = next(updates)
    assert first["left"]["state"] == "loading"
    desk.stop("me")
    *_, (views, _) = updates
    for side in SIDES:
        assert "stopped" in views[side]["figures"]
