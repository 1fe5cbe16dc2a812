"""What an endpoint is made from, and how bad input is refused: over real HTTP."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser_page import served
from load_client import Client, defaults_of
from load_server import MODEL, Server, local_server
from starlette.requests import Request

from stentor.commands import TokenOptions
from stentor.engine.sampling import SamplingSettings
from stentor.knobs import knobs
from stentor.ui.api_endpoint import refuse_names


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with local_server() as server:
        yield server


def refusal(client: Client, name: str, body: str) -> str:
    """Return what a call is refused with; `body` is JSON as a careless program writes it."""
    status, answer = client.ask(f"v2/{name}", body.encode("utf-8"))
    if status != 200:
        return str(answer)
    *_, (event, data) = client.listen(f"v2/{name}", answer["event_id"])
    assert event == "error", data
    return str(data["error"])


def test_the_schema_is_made_from_the_knobs(server: Server) -> None:
    """Nothing but these three is public: every handler of the page is private."""
    info = server.client.get("/info")
    assert set(info["named_endpoints"]) == {"/generate", "/score", "/models"}
    parameters = defaults_of(info, "generate")
    assert list(parameters)[:2] == ["model", "prompt"]
    for kind in (SamplingSettings, TokenOptions):
        for name in knobs(kind):
            assert parameters[name] == getattr(kind(), name)
            assert knobs(kind)[name].help in info["named_endpoints"]["/generate"]["description"]
    assert info["unnamed_endpoints"] == {}


BAD = [
    ('"prompt": ""', "The prompt is empty"),
    ('"prompt": "a\\ud800b"', "half of a character (a lone surrogate)"),
    ('"prompt": "%s"' % ("word " * 20_000), "The prompt has 2"),
    ('"prompt": "%s"' % ("x" * 100_001), "has 100,001 characters; the most is 100,000"),
    ('"prompt": null', "Prompt must be text; got None"),
    ('"prompt": ["a"]', "Prompt must be text; got ['a']"),
    ('"max_new_tokens": 0', "must be at least 1; got 0"),
    ('"max_new_tokens": 1000000000', "must be at most 512; got 1000000000"),
    ('"max_new_tokens": 1e999', "must be a whole number; got inf"),
    ('"max_new_tokens": 2.5', "must be a whole number; got 2.5"),
    ('"max_new_tokens": true', "must be a whole number; got True"),
    ('"temperature": NaN', "Temperature must be a number; got nan"),
    ('"temperature": -Infinity', "Temperature must be a number; got -inf"),
    ('"temperature": null', "Temperature must be a number; got None"),
    ('"temperature": "warm"', "Temperature must be a number; got 'warm'"),
    ('"seed": -1', "Seed must be at least 0; got -1"),
    ('"seed": 1%s' % ("0" * 400), "Seed must be at most 4294967295"),
    ('"alternatives": 11', "Alternatives must be at most 10; got 11"),
    ('"overflow": "explode"', "Overflow must be one of refuse, truncate; got 'explode'"),
    ('"model": "demo-bass"', "Did you mean 'demo-base'?"),
    ('"model": "\\udfff"', "No model is called"),
    ('"model": 7', "Model must be text; got 7"),
    ('"model": "/no/where"', "is not a folder"),
    ('"temprature": 1', "`temprature` is not a valid key-word argument"),
]


@pytest.mark.parametrize(("part", "message"), BAD, ids=[part[:24] for part, _ in BAD])
def test_bad_input_is_refused_with_a_reason(server: Server, part: str, message: str) -> None:
    """The later of two equal names counts in JSON, so each case spoils one value of a good call."""
    body = f'{{"model": "{MODEL}", "prompt": "Once", {part}}}'
    assert message in refusal(server.client, "generate", body)


def test_a_missing_prompt_and_an_unknown_endpoint_are_named(server: Server) -> None:
    assert "prompt" in refusal(server.client, "generate", f'{{"model": "{MODEL}"}}')
    assert "nonsense" in refusal(server.client, "nonsense", "{}")
    assert "two" in refusal(server.client, "score", f'{{"model": "{MODEL}", "text": "a"}}')


def test_a_mistake_of_ours_is_not_taken_for_a_wrong_name() -> None:
    request = Request({"type": "http", "path": "/gradio_api/queue/join", "headers": []})
    with pytest.raises(KeyError, match="ours"):
        asyncio.run(refuse_names(request, KeyError("ours")))


@pytest.mark.parametrize("body", ["", "[1, 2]", '"text"', "{", '{"model": "\\ud8'])
def test_what_is_no_object_of_named_values_is_refused(server: Server, body: str) -> None:
    status, _ = server.client.ask("v2/generate", body.encode())
    assert status in (400, 422)


@pytest.mark.parametrize(
    "prompt",
    [
        "a\0b",
        "\0",
        "שלום עולם",
        "😀👩‍👩‍👧",
        "\u202eright to left",
        "<script>alert(1)</script>",
        " ",
    ],
)
def test_odd_text_is_continued(server: Server, prompt: str) -> None:
    final = server.client.call("generate", model=MODEL, prompt=prompt, max_new_tokens=4)
    assert 0 < final["num_tokens"] <= 4 or final["stop_reason"] == "end of text"
    scored = server.client.call("score", model=MODEL, text=f"The {prompt}")
    text = scored["first_token"]["text"] + "".join(token["text"] for token in scored["tokens"])
    assert text == f"The {prompt}"


def test_a_prompt_of_the_most_characters_is_cut_where_that_is_asked_for(server: Server) -> None:
    prompt = "word " * 20_000
    assert len(prompt) == 100_000
    final = server.client.call(
        "generate", model=MODEL, prompt=prompt, overflow="truncate", max_new_tokens=3
    )
    assert final["stop_reason"] in ("token limit", "end of text")
    assert final["num_dropped_tokens"] > 10_000
    assert final["num_prompt_tokens"] == server.engine.context_length - 3


def test_strangers_cannot_open_folders(server: Server, tmp_path: Path) -> None:
    context = replace(server.context, allow_folders=False)
    with served(context) as url:
        body = json.dumps({"model": str(tmp_path), "prompt": "Once"})
        assert "Folders cannot be opened from here" in refusal(Client(url), "generate", body)
        body = json.dumps({"model": str(tmp_path), "text": "Once"})
        assert "Folders cannot be opened from here" in refusal(Client(url), "score", body)
