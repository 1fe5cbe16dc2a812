"""The HTTP API over real HTTP: answers, clients that leave, a flood."""

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from load_client import API, defaults_of
from load_server import MODEL, PATIENCE_SECONDS, PROMPT, ROOT, Server, local_server, wait_until

from stentor.engine.decoder import MAX_ALTERNATIVES
from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.models import MODELS

# Requests for each slot: the first text that ended early once let in a client that was to wait.
QUEUE = 3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with local_server() as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left(server: Server) -> Iterator[None]:
    """Count the engine's slots after every test, whatever it did."""
    yield
    wait_until(lambda: server.engine.num_requests == 0)
    wait_until(lambda: server.engine.num_free_slots == server.engine.num_slots)


def test_generate_streams_and_ends_with_everything(server: Server) -> None:
    values = {"model": MODEL, "prompt": PROMPT, "max_new_tokens": 60, "seed": 5, "alternatives": 2}
    client = server.client
    _, answer = client.ask("v2/generate", json.dumps(values).encode())
    events = list(client.listen("v2/generate", answer["event_id"]))
    assert [event for event, _ in events[:-1]] == ["generating"] * (len(events) - 1)
    event, (final,) = events[-1]
    assert event == "complete"
    for _, (update,) in events:
        assert final["text"].startswith(update["text"])
    assert final["stop_reason"] == "token limit"
    assert final["num_tokens"] == len(final["tokens"]) == 60
    assert "".join(token["text"] for token in final["tokens"]) == final["text"]
    assert final["settings"]["seed"] == 5 and final["overflow"] == "refuse"
    assert final["revision"].startswith("sha256:") and final["versions"]["stentor"]
    assert final["precision"] == server.engine.precision
    for token in final["tokens"]:
        assert token["log_probability"] <= 0.0 and token["rank"] >= 1
        likeliest, second = token["alternatives"]
        assert likeliest["log_probability"] >= second["log_probability"]
        assert (token["rank"] == 1) == (likeliest["token_id"] == token["token_id"])


def test_the_api_gives_the_same_text_as_the_engine(server: Server) -> None:
    settings = SamplingSettings(max_new_tokens=30, temperature=1.0, seed=11)
    loaded = server.context.store.load(MODEL)
    prompt_ids = tuple(loaded.checkpoint.tokenizer.encode(PROMPT).ids)
    stream = loaded.engine.submit(GenerationRequest(prompt_ids, settings, "test"))
    stream.wait()
    final = server.client.call(
        "generate", model=MODEL, prompt=PROMPT, max_new_tokens=30, temperature=1.0, seed=11
    )
    assert final["text"] == stream.snapshot().text
    assert [token["log_probability"] for token in final["tokens"]] == [
        record.log_probability for record in stream.tokens
    ]


def test_score_tells_every_token_of_a_text(server: Server) -> None:
    text = "The river runs to the sea. 😀"
    scored = server.client.call("score", model=MODEL, text=text, alternatives=MAX_ALTERNATIVES)
    assert scored["first_token"]["text"] + "".join(t["text"] for t in scored["tokens"]) == text
    assert all(len(token["alternatives"]) == MAX_ALTERNATIVES for token in scored["tokens"])
    assert scored["bits_per_byte"] == pytest.approx(scored["bits"] / scored["num_bytes"])
    assert 0.0 < scored["bits_per_byte"] < 16.0


def test_models_are_listed_without_their_places_on_the_server(server: Server) -> None:
    models = server.client.call("models")
    assert [line["model"] for line in models] == list(MODELS)
    ready = [line for line in models if line["is_ready"]]
    assert {"demo-base", "demo-big"} <= {line["model"] for line in ready}
    assert all(line["num_parameters"] > 1_000_000 and line["num_bytes"] for line in ready)
    assert "assets" not in json.dumps(models)


# Clients that leave, and those who stay too long -------------------------------------------------


def begin(server: Server, **values: Any) -> str:  # noqa: ANN401
    """Post a long generation and return its event."""
    given = {"model": MODEL, "prompt": PROMPT, "max_new_tokens": 450, **values}
    status, answer = server.client.ask("v2/generate", json.dumps(given).encode())
    assert status == 200
    return str(answer["event_id"])


def listen_raw(server: Server, event_id: str) -> socket.socket:
    """Return a socket that has asked for a stream and received its beginning."""
    parts = urlsplit(server.url)
    line = socket.create_connection((str(parts.hostname), parts.port or 80))
    path = f"{API}/call/v2/generate/{event_id}"
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    assert b"event: generating" in line.recv(65536) + line.recv(65536)
    return line


@contextmanager
def crowd(engine: Engine, num_others: int) -> Iterator[None]:
    """Let others generate long texts meanwhile, so that nothing is over by itself too soon."""
    settings = SamplingSettings(max_new_tokens=500, temperature=1.0)
    streams = [
        engine.submit(GenerationRequest((1,), replace(settings, seed=seed), f"other {seed}"))
        for seed in range(num_others)
    ]
    try:
        yield
    finally:
        for stream in streams:
            stream.cancel()


@pytest.fixture
def submitted(server: Server, monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """Return the streams that the engine has handed out since the test began."""
    streams: list[Stream] = []
    submit = server.engine.submit

    def remember(request: GenerationRequest) -> Stream:
        streams.append(submit(request))
        return streams[-1]

    monkeypatch.setattr(server.engine, "submit", remember)
    return streams


@pytest.mark.parametrize("is_waiting", [False, True])
def test_a_client_that_leaves_frees_its_place(
    server: Server, submitted: list[Stream], is_waiting: bool
) -> None:
    """Gradio closes its generator at the next update: where nothing changed there once was none."""
    engine = server.engine
    with crowd(engine, QUEUE * engine.num_slots if is_waiting else engine.num_slots - 1):
        line = listen_raw(server, begin(server))
        stream = submitted[-1]
        wait_until(lambda: bool(stream.snapshot().queue_position) == is_waiting)
        line.close()
        assert stream.wait(PATIENCE_SECONDS)
        assert stream.snapshot().stop_reason == StopReason.STOPPED
        assert not all(other.is_done for other in submitted[:-1])


def test_a_call_that_takes_one_answer_only_leaves_nothing_behind(
    server: Server, submitted: list[Stream]
) -> None:
    """Gradio's /run answers with the first update and drops the generator."""
    values = {**defaults_of(server.client.get("/info"), "generate"), "model": MODEL}
    values.update(prompt=PROMPT, max_new_tokens=500, seed=4)
    with crowd(server.engine, QUEUE * server.engine.num_slots):
        answer = server.client.post("/run/generate", {"data": list(values.values())})
        assert answer["data"][0]["stop_reason"] is None
        assert submitted[-1].wait(PATIENCE_SECONDS)
        assert submitted[-1].snapshot().stop_reason == StopReason.STOPPED


def test_a_client_that_never_listens_ends_by_itself(server: Server) -> None:
    begin(server, max_new_tokens=20)
    wait_until(lambda: server.engine.num_requests == 0)


def test_a_thousand_requests_of_one_session_are_each_answered_or_refused(server: Server) -> None:
    """Nothing hangs, nobody else waits for them, and everything is as it was afterwards."""
    values = {
        **defaults_of(server.client.get("/info"), "generate"),
        **{"model": MODEL, "prompt": PROMPT, "max_new_tokens": 8},
    }
    body = json.dumps({"data": list(values.values()), "session_hash": "the same"}).encode()
    with ThreadPoolExecutor(8) as pool:
        asked = list(pool.map(lambda _: server.client.ask("generate", body), range(1000)))
    assert all(status == 200 for status, _ in asked)
    other = server.client.call("generate", model=MODEL, prompt=PROMPT, max_new_tokens=8)
    assert other["num_tokens"] == 8
    # One stream brings what all events of the session have to say.
    ends = [
        (event, data)
        for event, data in server.client.listen("generate", asked[-1][1]["event_id"])
        if event in ("complete", "error")
    ]
    assert len(ends) == 1000
    refusals = {data["error"] for event, data in ends if event == "error"}
    texts = {data[0]["text"] for event, data in ends if event == "complete"}
    assert texts == {other["text"]}
    assert len(refusals) <= 1
    assert all("Wait for one" in refusal for refusal in refusals)


@pytest.mark.parametrize(("language", "program"), [("python", sys.executable), ("sh", "bash")])
def test_the_readme_shows_programs_that_work(server: Server, language: str, program: str) -> None:
    if language == "sh" and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(rf"```{language} api\n(.*?)```", readme, re.DOTALL)
    assert block is not None
    source = block.group(1).replace("http://127.0.0.1:7860", server.url.rstrip("/"))
    shown = subprocess.run(
        [program, "-c", source], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert shown.returncode == 0, shown.stderr
    final = server.client.call("generate", model="demo-big", prompt="The river", seed=7)
    assert final["stop_reason"] in shown.stdout
    assert str(final["tokens"][0]["token_id"]) in shown.stdout
