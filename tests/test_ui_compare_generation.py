"""Two streams side by side: pace, stop, continue, errors of one side, and nothing left behind."""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_variants import write_endless
from watched_decoder import WatchedDecoder

from stentor.engine.engine import NUM_SLOTS, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.store import LoadedModel, ModelStore
from stentor.ui import compare_generation
from stentor.ui.compare_desk import SIDES, Desk
from stentor.ui.compare_generation import Output, SideRequest, waiting_line

Update = tuple[dict[str, dict[str, Any]], dict[str, Output | None]]
PROMPT = "The river runs"
LONG = SamplingSettings(max_new_tokens=200, temperature=1.0)
SHORT = SamplingSettings(max_new_tokens=12, temperature=1.0, seed=3)


@pytest.fixture
def store() -> Iterator[ModelStore]:
    with ModelStore(num_threads=1) as store:
        yield store


@pytest.fixture
def slow(store: ModelStore, tiny_model_folder: Path, tmp_path: Path) -> LoadedModel:
    """Return a model whose long texts take a second, because each step waits a little."""
    folder = write_endless(tiny_model_folder, tmp_path / "slow")
    loaded = store.load(str(folder))
    WatchedDecoder(loaded.engine, fault=lambda _: time.sleep(0.005))
    return loaded


def both(folder: Path, settings: SamplingSettings, prompt: str = PROMPT) -> dict[str, SideRequest]:
    return {side: SideRequest(str(folder), prompt, "refuse", settings) for side in SIDES}


class Updates:
    """The updates of one press of Generate, taken one by one as Gradio takes them."""

    def __init__(
        self, store: ModelStore, desk: Desk, session: str, requests: dict[str, SideRequest]
    ) -> None:
        self._loop = asyncio.new_event_loop()
        self._updates = compare_generation.generate(
            store, desk, session, requests, allow_folders=True
        )

    def __iter__(self) -> "Updates":
        return self

    def __next__(self) -> Update:
        try:
            return self._loop.run_until_complete(anext(self._updates))
        except StopAsyncIteration:
            self.close()
            raise StopIteration from None

    def close(self) -> None:
        """Do what Gradio does when the browser has left."""
        self._loop.run_until_complete(self._updates.aclose())
        self._loop.close()


def folder_of(loaded: LoadedModel) -> Path:
    return loaded.checkpoint.folder


def last_of(
    store: ModelStore, requests: dict[str, SideRequest], desk: Desk | None = None
) -> Update:
    *_, last = Updates(store, desk or Desk(), "me", requests)
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


def test_stopping_one_side_leaves_the_other_running(store: ModelStore, slow: LoadedModel) -> None:
    desk = Desk()
    endless = both(folder_of(slow), LONG)
    views: dict[str, dict[str, Any]] = {}
    for changed, _ in Updates(store, desk, "me", endless):
        views.update(changed)
        if views.get("right", {}).get("text"):
            desk.stop("me", ("left",))
    assert "stopped" in views["left"]["figures"]
    assert "stopped" not in views["right"]["figures"]


def test_a_closed_browser_frees_its_slots(store: ModelStore, slow: LoadedModel) -> None:
    updates = Updates(store, Desk(), "me", both(folder_of(slow), LONG))
    for changed, _ in updates:
        if changed.get("left", {}).get("text"):
            break
    updates.close()
    for _ in range(200):
        if slow.engine.num_requests == 0:
            assert slow.engine.num_free_slots == NUM_SLOTS
            return
        last_of(store, both(folder_of(slow), SHORT))  # others are served meanwhile
    pytest.fail("the requests of a closed browser still hold their slots")


def test_a_newer_generation_ends_the_older_one(store: ModelStore, slow: LoadedModel) -> None:
    desk = Desk()
    older = Updates(store, desk, "me", both(folder_of(slow), LONG))
    for changed, _ in older:
        if changed.get("left", {}).get("text"):
            break
    newer, _ = last_of(store, both(folder_of(slow), SHORT), desk)
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
    store: ModelStore, slow: LoadedModel
) -> None:
    """Stop once found no stream to cancel then, and both sides ran to their end."""
    desk = Desk()
    updates = Updates(store, desk, "me", both(folder_of(slow), LONG))
    with store._lock:  # while it is held nothing can be loaded
        first, _ = next(updates)
        assert first["left"]["state"] == "loading"
        desk.stop("me")
    *_, (views, _) = updates
    for side in SIDES:
        assert "stopped" in views[side]["figures"]


def test_who_waits_is_told_the_place_in_line(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = write_endless(tiny_model_folder, tmp_path / "endless")
    last_of(store, both(folder, SHORT))  # from now on the engine can say how long
    engine = store.load(str(folder)).engine
    decoder = WatchedDecoder(engine, is_held=True)
    crowd = [
        engine.submit(GenerationRequest((1, 2), SHORT, f"visitor {place}"))
        for place in range(NUM_SLOTS)
    ]
    decoder.advance(2)  # the first step was chosen when the first of them came
    updates = Updates(store, Desk(), "me", both(folder, SHORT))
    views: dict[str, dict[str, Any]] = {}
    while {view["state"] for view in views.values()} != {"waiting"}:
        views.update(next(updates)[0])
    messages = sorted(view["message"] for view in views.values())
    assert re.fullmatch(r"Place 1 in line, about \d+ s\.", messages[0])
    assert messages[1].startswith("Place 2 in line")
    decoder.release()
    *_, (last, _) = updates
    assert {view["state"] for view in last.values()} == {"done"}
    assert {view["message"] for view in last.values()} == {""}
    assert all(stream.wait(60.0) for stream in crowd)


def test_a_place_in_line_in_words() -> None:
    assert waiting_line(3, 4.2) == "Place 3 in line, about 4 s."
    assert waiting_line(1, 0.01) == "Place 1 in line, about 1 s."
    assert waiting_line(2, None) == "Place 2 in line."


def test_nothing_goes_on_for_ever(
    store: ModelStore, slow: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of a browser, its texts end, say why, and can be continued."""
    monkeypatch.setattr(compare_generation, "DEADLINE_SECONDS", 0.3)
    views, outputs = last_of(store, both(folder_of(slow), LONG))
    for side in SIDES:
        assert "out of time" in views[side]["figures"]
        assert "the most for one text. Press Continue" in views[side]["message"]
        output = outputs[side]
        assert output is not None and 0 < len(output.token_ids) < LONG.max_new_tokens
    assert slow.engine.num_free_slots == NUM_SLOTS


def test_a_browser_is_asked_whether_it_is_still_there(
    store: ModelStore, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio notices that a browser has left when it sends the next update.

    Who waited in line without any news was therefore kept in line after leaving.
    """
    monkeypatch.setattr(compare_generation, "ALIVE_SECONDS", 0.01)
    decoder = WatchedDecoder(store.load(str(tiny_model_folder)).engine, is_held=True)
    updates = Updates(store, Desk(), "me", both(tiny_model_folder, SHORT))
    while next(updates)[0]:
        pass
    assert next(updates) == ({}, {})
    decoder.release()
    *_, (views, _) = updates
    assert views["left"]["state"] == "done"
