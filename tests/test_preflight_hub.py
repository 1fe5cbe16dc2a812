"""Datasets of the Hub before a run: a real check, a real child, a small real Hub."""

import io
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from dataset_hub import COMMIT, DatasetHubHandler
from stage_texts import texts
from tiny_recipe import PATIENCE_SECONDS, tiny_recipe

from stentor.rehearsals import read, start
from training.recipe import recipe_to_json
from training.settings import Source


def checked(folder: Path, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - of a Source
    """Return the report of a check whose general stage reads a dataset."""
    source = Source(kind="hub", name="org/text", revision=COMMIT)
    recipe = tiny_recipe(folder, (Source(**{**source.identity(), **values}),))
    name = start("check", recipe_to_json(recipe))
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := read(name))["state"] == "running":
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    report: dict[str, Any] = answer["report"]
    assert report is not None, answer["news"]
    return report


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve `org/text` to children that are started."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts(200)}), stream)
    values = {"files": {"a.parquet": stream.getvalue()}, "broken": set(), "hang_ups": []}
    handler = type("Handler", (DatasetHubHandler,), values)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield
    server.shutdown()
    server.server_close()


def test_a_dataset_that_answers_is_shown(tiny_model_folder: Path, hub: None) -> None:
    report = checked(tiny_model_folder)
    assert report["problems"] == []
    assert report["windows"][0]["source"] == "org/text"
    assert texts(1)[0][:40] in report["windows"][0]["text"]


def test_a_column_that_is_not_there_is_told(tiny_model_folder: Path, hub: None) -> None:
    (problem,) = checked(tiny_model_folder, column="body")["problems"]
    assert (problem["stage"], problem["what"], problem["level"]) == ("general", "data", "error")
    assert "no column 'body'; it has: text" in problem["message"]


def test_a_dataset_without_a_network_is_told_as_such(tiny_model_folder: Path) -> None:
    """The tests have HF_HUB_OFFLINE set."""
    (problem,) = checked(tiny_model_folder)["problems"]
    assert problem["stage"] == "general" and "org/text cannot be read" in problem["message"]
    assert problem["mend"].startswith("HF_HUB_OFFLINE is set")
