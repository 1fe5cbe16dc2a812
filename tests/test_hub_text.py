"""Hub datasets, streamed over real HTTP from a small server that speaks the Hub's endpoints.

huggingface_hub and datasets read HF_ENDPOINT when they are imported, so a child does the reading.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from dataset_hub import COMMIT, DatasetHubHandler
from stage_texts import bytes_of, texts

from stentor.errors import DataError
from training.hub_text import read_hub
from training.settings import Source
from training.sources import read_documents

ROOT = Path(__file__).resolve().parent.parent
TEXT = {"name": "org/text", "revision": COMMIT}
# Prepares a stage from the Hub, with small shards; prints how that ended and what was said.
CHILD = """
import json, sys
from pathlib import Path
from huggingface_hub import constants
from huggingface_hub.utils import _http
from tokenizers import Tokenizer
from stentor.errors import DataError
from training import shards, tokenise
from training.data import prepare_stage_data
from training.settings import PretrainSettings, Source

_http.time.sleep = lambda seconds: None  # the Hub's client waits half a minute between its tries
shards.SHARD_WINDOWS = 4
tokenise.GROUP_DOCUMENTS = 10
tokenizer_file, folder, *sources = sys.argv[1:]
tokenizer = Tokenizer.from_file(tokenizer_file)
settings = PretrainSettings(num_steps=30, batch_size=2, validation_windows=2)
for values in map(json.loads, sources):
    said = []
    source = (Source(kind="hub", **values),)
    try:
        data = prepare_stage_data(source, tokenizer, 0, settings, Path(folder), 0, said.append)
        print(json.dumps({"windows": data.num_training_windows, "said": said}))
    except DataError as error:
        print(json.dumps({"error": str(error), "said": said}))
"""


def parquet(documents: list[str]) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": documents}), stream)
    return stream.getvalue()


class Hub:
    """The server, and children that read from it."""

    def __init__(self, tokenizer: Path, folder: Path) -> None:
        class Handler(DatasetHubHandler):
            pass

        Handler.files = {
            "train-00000-of-00002.parquet": parquet(texts(200, "first")),
            "train-00001-of-00002.parquet": parquet(texts(300, "second")),
        }
        Handler.broken = set()
        Handler.hang_ups = []
        self.handler = Handler
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.tokenizer = tokenizer
        self.home = folder / "hub-home"

    def prepare(self, folder: Path, *sources: dict[str, str]) -> list[dict[str, Any]]:
        """Prepare stages one after the other in a child process."""
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}",
            "HF_HOME": str(self.home),
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }
        for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE"):
            environment.pop(name, None)
        child = subprocess.run(
            [
                sys.executable,
                "-c",
                CHILD,
                str(self.tokenizer),
                str(folder),
                *map(json.dumps, sources),
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert child.returncode == 0, child.stderr
        return [json.loads(line) for line in child.stdout.splitlines()]


@pytest.fixture
def hub(tiny_model_folder: Path, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(tiny_model_folder / "tokenizer.json", tmp_path)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def test_a_network_that_drops_in_mid_stream_loses_nothing_that_is_finished(
    hub: Hub, tmp_path: Path
) -> None:
    """The client of the Hub raises its own errors, which `datasets` does not know to repeat."""
    assert hub.prepare(tmp_path / "whole", TEXT)[0]["windows"] == 60
    hub.handler.broken.add("train-00001-of-00002.parquet")
    broken = hub.prepare(tmp_path / "broken", TEXT)[0]
    assert "The dataset org/text broke off at row 201 (" in broken["error"]
    assert "Finished shards are kept; resume the run when the network" in broken["error"]
    assert hub.handler.hang_ups
    notes = list((tmp_path / "broken").rglob("train-*.json"))
    assert len(notes) > 3 and not list((tmp_path / "broken").rglob("manifest.json"))
    hub.handler.broken.clear()
    resumed = hub.prepare(tmp_path / "broken", TEXT)[0]
    assert resumed["said"][0] == f"org/text: going on after {4 * len(notes)} windows"
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "whole")


def test_what_the_hub_does_not_have_is_said(hub: Hub, tmp_path: Path) -> None:
    nothing, column, revision = hub.prepare(
        tmp_path, {"name": "org/nothing"}, {**TEXT, "column": "body"}, {**TEXT, "revision": "v9"}
    )
    assert nothing["error"].startswith("The dataset org/nothing cannot be read (DatasetNotFound")
    assert column["error"] == "org/text, row 1: no column 'body'; it has: text."
    assert "The dataset org/text cannot be read (" in revision["error"]
    assert "v9" in revision["error"]


def test_a_damaged_file_is_named_by_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=f"The dataset {tmp_path} cannot be read"):
        next(read_hub(Source(kind="hub", name=str(tmp_path))))


def test_an_empty_cell_is_empty_text(tmp_path: Path) -> None:
    """The library reads a local folder by the same call; a cell was once the word None."""
    rows = [{"text": "one"}, {"text": None}, {"text": "two"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(kind="hub", name=str(tmp_path))
    assert list(read_hub(source)) == ["one", "", "two"]
    assert list(read_hub(source, skip=2)) == ["two"]
    assert sorted(read_documents((source,), 0)) == ["one", "two"]
    with pytest.raises(DataError, match=r"row 3: no column 'body'; it has: text"):
        next(read_hub(Source(kind="hub", name=str(tmp_path), column="body"), skip=2))


def test_a_number_is_refused_by_row(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": 1}\n{"text": 2}\n')
    with pytest.raises(DataError, match=r"row 2: 'text' holds int, not text"):
        next(read_hub(Source(kind="hub", name=str(tmp_path)), skip=1))


def test_a_hub_that_cannot_be_reached_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library reads HF_HUB_OFFLINE when it is imported, which may be before the test began.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"cannot be read .* give local files with --text"):
        next(read_documents((Source(kind="hub", name="nobody/nothing"),), 0))
