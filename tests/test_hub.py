"""Fetching over real HTTP from a small server that speaks the Hub's endpoints, good days and bad.

huggingface_hub reads HF_ENDPOINT when it is imported, so a child process does the fetching.
"""

import os
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hub_server import COMMIT, HubClient, HubHandler

from stentor.hub import Fetcher, FetchState, cached_folder
from stentor.loading import open_checkpoint_folder
from stentor.models import MODELS, ModelSpec


@pytest.fixture(scope="module")
def handler(tiny_model_folder: Path) -> type[HubHandler]:
    """Return the server's behaviour: the tiny model, and files nobody asked for."""
    files = {path.name: path.read_bytes() for path in tiny_model_folder.iterdir()}
    files |= {
        "README.md": b"# A card",
        "pytorch_model.bin": b"\x80\x04.",
        "modeling_evil.py": b"raise SystemExit",
        "checkpoints/step-1/model.safetensors": b"not wanted",
    }

    class Handler(HubHandler):
        pass

    Handler.files = files
    Handler.requests = []
    Handler.failures = {"drops-once": 1, "falls-over": 2}
    return Handler


@pytest.fixture(scope="module")
def client(
    handler: type[HubHandler], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubClient]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    client = HubClient(
        f"http://127.0.0.1:{server.server_address[1]}", tmp_path_factory.mktemp("hub-home")
    )
    yield client
    client.close()
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_and_loads(
    client: HubClient, handler: type[HubHandler], tiny_model_folder: Path
) -> None:
    state = client.fetch("org/fine")
    assert (state["state"], state["message"]) == ("ready", "The models are on this machine.")
    fetched = Path(state["folder"])
    assert fetched.name == COMMIT
    wanted = {path.name for path in tiny_model_folder.iterdir()}
    assert {path.name for path in fetched.iterdir()} == wanted, "no pickle, code or subfolder"
    total = sum(len(handler.files[name]) for name in wanted)
    assert state["done_bytes"] == state["total_bytes"] == total
    checkpoint = open_checkpoint_folder(fetched)
    assert checkpoint.revision == COMMIT
    before = len(handler.requests)
    assert client.fetch("org/fine")["state"] == "ready"
    assert len(handler.requests) == before, "what is complete is never asked for again"


def test_a_connection_that_drops_once_in_the_middle_is_taken_up_again(client: HubClient) -> None:
    state = client.fetch("org/drops-once")
    assert state["state"] == "ready"
    assert open_checkpoint_folder(Path(state["folder"])).num_parameters == 30_880


def test_a_hub_that_falls_over_in_the_middle_is_a_state_and_a_later_try_ends_well(
    client: HubClient,
) -> None:
    """It drops the connection, then answers 500; nothing half-fetched may count as the model."""
    state = client.fetch("org/falls-over")
    assert state["state"] == "unreachable" and state["folder"] is None
    assert "cannot be reached; the models at hand work as they are" in state["message"]
    assert client.fetch("org/falls-over")["state"] == "ready"


def test_a_hub_that_answers_with_errors_is_unreachable(client: HubClient) -> None:
    state = client.fetch("org/down")
    assert state["state"] == "unreachable" and "cannot be reached" in state["message"]


def test_a_model_that_does_not_exist_is_named(client: HubClient) -> None:
    state = client.fetch("org/missing")
    assert state["state"] == "failed"
    assert "no public model org/missing" in state["message"]


def test_no_hub_at_all_is_a_quiet_state(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    port = server.server_address[1]
    server.server_close()  # nobody listens there now
    client = HubClient(f"http://127.0.0.1:{port}", tmp_path)
    state = client.fetch("org/fine")
    client.close()
    assert state["state"] == "unreachable" and state["folder"] is None
    assert "Try again when this machine is online" in state["message"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty Hub cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


SPEC = ModelSpec("test", "Test", "", hub_id="org/model")


def write_snapshot(cache: Path, commit: str, *names: str) -> Path:
    snapshot = cache / "models--org--model" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


COMPLETE = ("config.json", "tokenizer.json", "model.safetensors")


def test_only_a_complete_snapshot_counts(cache: Path) -> None:
    assert cached_folder(SPEC) is None
    partial = write_snapshot(cache, "1" * 40, "config.json", "tokenizer.json")
    assert cached_folder(SPEC) is None
    (partial / "model.safetensors").write_text("")
    assert cached_folder(SPEC) == partial
    assert cached_folder(MODELS["demo-base"]) is None, "an embedded model is not of the Hub"


def test_the_commit_of_main_comes_first_and_an_older_one_serves_meanwhile(cache: Path) -> None:
    newer = write_snapshot(cache, "2" * 40, *COMPLETE)
    main = write_snapshot(cache, "1" * 40, *COMPLETE)
    reference = cache / "models--org--model" / "refs" / "main"
    reference.parent.mkdir()
    reference.write_text(main.name)
    os.utime(newer, (2_000_000_000, 2_000_000_000))
    assert cached_folder(SPEC) == main
    (main / "model.safetensors").unlink()
    assert cached_folder(SPEC) == newer


def test_the_cache_folder_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert cached_folder(SPEC) is None
    snapshot = write_snapshot(tmp_path / "hub", "3" * 40, *COMPLETE)
    assert cached_folder(SPEC) == snapshot


def test_offline_is_respected_and_said(cache: Path) -> None:
    fetcher = Fetcher([SPEC])
    assert fetcher.state() == FetchState("idle") and fetcher.wait()
    fetcher.start()
    assert fetcher.wait(30.0)
    assert fetcher.state().state == "unreachable"
    assert "HF_HUB_OFFLINE is set" in fetcher.state().message


def test_what_is_cached_is_ready_even_offline(cache: Path) -> None:
    write_snapshot(cache, "1" * 40, *COMPLETE)
    fetcher = Fetcher([SPEC])
    fetcher.start()
    assert fetcher.wait(30.0)
    assert fetcher.state().state == "ready"
