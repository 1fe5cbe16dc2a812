"""Visitors of the HTTP API, each with an address and a session of its own.

    python tests/load_client.py http://127.0.0.1:7860 --clients 30 --seconds 60

runs in a process of its own, so that the server does not pay for its clients, and prints one JSON
object. Standard library only. Each client asks the models in turn for one text after the other; a
round of all models that has begun when the time is over is finished and counted.
"""

import argparse
import http.client
import itertools
import json
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

API = "/gradio_api"
PROMPT = "The old lighthouse stood at the end of"
# A busy machine may be slow; only a server that hangs is ended by it.
PATIENCE_SECONDS = 120.0
# After an error, so that a server that is down is not asked all the time.
PAUSE_SECONDS = 0.5


@dataclass
class Visitor:
    """One client and what it got."""

    number: int
    session: str = field(default_factory=lambda: uuid.uuid4().hex)
    num_requests: int = 0
    num_tokens: int = 0
    num_updates: int = 0
    seconds: float = 0.0  # spent in its requests
    first_seconds: list[float] = field(default_factory=list)  # until the first token was seen
    errors: list[str] = field(default_factory=list)


class Client:
    """Calls the API from one address, with a new connection for each request, as curl does."""

    def __init__(self, url: str, address: str | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname and parts.port
        self._place = (parts.hostname, parts.port)
        # The server believes this of its own machine only.
        self._headers = {"X-Forwarded-For": address} if address else {}

    def _request(
        self, method: str, path: str, body: bytes | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(*self._place, timeout=PATIENCE_SECONDS)
        headers = {**self._headers, "Content-Type": "application/json", "Connection": "close"}
        connection.request(method, API + path, body, headers)
        return connection.getresponse()

    def get(self, path: str) -> Any:  # noqa: ANN401 - any JSON
        """Return the JSON of a path."""
        with self._request("GET", path) as answer:
            return json.loads(answer.read())

    def post(self, path: str, values: Any) -> Any:  # noqa: ANN401
        """Post JSON to a path and return the JSON it answers with."""
        with self._request("POST", path, json.dumps(values).encode()) as answer:
            return json.loads(answer.read())

    def ask(self, name: str, body: bytes) -> tuple[int, Any]:
        """Post a call; return the status and the JSON, with the event's id where it was taken."""
        with self._request("POST", f"/call/{name}", body) as answer:
            return answer.status, json.loads(answer.read())

    def listen(self, name: str, event_id: str) -> Iterator[tuple[str, Any]]:
        """Yield (event, data) until the call is over: `generating`, `complete`, `error`."""
        event = ""
        with self._request("GET", f"/call/{name}/{event_id}") as answer:
            assert answer.status == 200, answer.status
            for line in answer:
                word, _, rest = line.decode("utf-8").strip().partition(": ")
                if word == "event":
                    event = rest
                elif word == "data" and event != "heartbeat":
                    yield event, json.loads(rest)

    def call(self, name: str, **values: Any) -> Any:  # noqa: ANN401
        """Return the last value of a call by names, or raise with what the server said."""
        status, answer = self.ask(f"v2/{name}", json.dumps(values).encode())
        if status != 200:
            raise AssertionError(f"{status}: {answer}")
        *_, (event, data) = self.listen(f"v2/{name}", answer["event_id"])
        if event != "complete":
            raise AssertionError(data)
        return data[0]


def defaults_of(info: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an endpoint's parameters in order, each with its default."""
    parameters = info["named_endpoints"][f"/{name}"]["parameters"]
    return {known["parameter_name"]: known["parameter_default"] for known in parameters}


def visit(
    visitor: Visitor,
    client: Client,
    values: dict[str, Any],
    models: list[str],
    seconds: float,
) -> None:
    """Ask for one text after the other, in whole rounds of the models, until the time is over."""
    end = time.monotonic() + seconds
    for count in itertools.count():
        if count and count % len(models) == 0 and time.monotonic() >= end:
            return
        # Half of the clients begin with one model, half with the other.
        model = models[(visitor.number + count) % len(models)]
        values = {**values, "model": model, "seed": 1000 * visitor.number + count}
        began = time.monotonic()
        try:
            final = _generate(visitor, client, values, began)
        except (OSError, AssertionError, ValueError, KeyError, http.client.HTTPException) as error:
            visitor.errors.append("".join(traceback.format_exception_only(error)).strip())
            time.sleep(PAUSE_SECONDS)
            continue
        visitor.seconds += time.monotonic() - began
        visitor.num_requests += 1
        visitor.num_tokens += final["num_tokens"]
        if len(final["tokens"]) != final["num_tokens"] or final["stop_reason"] is None:
            visitor.errors.append(f"an answer without its tokens: {str(final)[:200]}")


def _generate(
    visitor: Visitor, client: Client, values: dict[str, Any], began: float
) -> dict[str, Any]:
    """Return the last update of one text."""
    body = {"data": list(values.values()), "session_hash": visitor.session}
    status, answer = client.ask("generate", json.dumps(body).encode())
    assert status == 200, f"{status}: {answer}"
    is_first = True
    final: dict[str, Any] = {}
    for event, data in client.listen("generate", answer["event_id"]):
        assert event != "error", data
        final = data[0]
        visitor.num_updates += 1
        if is_first and final["num_tokens"]:
            visitor.first_seconds.append(time.monotonic() - began)
            is_first = False
    return final


def run_visitors(
    url: str,
    *,
    num_clients: int,
    seconds: float,
    models: list[str],
    **settings: Any,  # noqa: ANN401
) -> list[Visitor]:
    """Let the clients visit at the same time and return them."""
    values = {**defaults_of(Client(url).get("/info"), "generate"), **settings}
    visitors = [Visitor(number) for number in range(num_clients)]
    threads = []
    for visitor in visitors:
        client = Client(url, f"10.0.{visitor.number // 200}.{1 + visitor.number % 200}")
        arguments = (visitor, client, values, models, seconds)
        threads.append(threading.Thread(target=visit, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return visitors


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--models", nargs="+", default=["demo-base", "demo-big"])
    parser.add_argument("--tokens", type=int, default=80)
    parser.add_argument("--prompts", type=int, default=1, help="repeat the prompt this often")
    flags = parser.parse_args()
    visitors = run_visitors(
        flags.url,
        num_clients=flags.clients,
        seconds=flags.seconds,
        models=flags.models,
        prompt=PROMPT * flags.prompts,
        overflow="truncate",
        max_new_tokens=flags.tokens,
    )
    json.dump([asdict(visitor) for visitor in visitors], sys.stdout)


if __name__ == "__main__":
    main()
