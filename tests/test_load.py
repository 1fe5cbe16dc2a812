"""Thirty programs at once against the real app: nobody fails, nobody starves, nothing grows.

    python -m pytest -m load -s        # the whole minute, and its figures

The default run has a short version. The clients are a process of their own (load_client.py), each
with an address and a session of its own, as in a class. A session's pace is the time it spent in
its requests for each token it got; fair is a slowest session at no more than MOST_UNFAIR times the
median's. All sessions ask both models for the same number of texts, so their paces compare.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import pytest
from load_server import ROOT, app_process

from stentor.engine.engine import NUM_SLOTS

NUM_CLIENTS = 30
MOST_UNFAIR = 1.5
MOST_GROWTH = 1.05
MODELS = ("demo-base", "demo-big")
# Prompts that fill the context, as many as there are slots: then the memory of every slot is used.
FILLING = ("--clients", str(NUM_SLOTS), "--seconds", "0", "--prompts", "100", "--tokens", "8")


def start_clients(url: str, *flags: str) -> "subprocess.Popen[str]":
    program = str(ROOT / "tests" / "load_client.py")
    return subprocess.Popen(
        [sys.executable, program, url, *flags], stdout=subprocess.PIPE, text=True
    )


def run_load(home: Path, *, seconds: float, warm_up_seconds: float = 0.0) -> dict[str, Any]:
    """Return the figures of a visit by NUM_CLIENTS; `seconds` follow the warm-up."""
    with app_process(home) as (url, server):
        for model in MODELS if warm_up_seconds else ():
            filling = start_clients(url, "--models", model, *FILLING)
            check(json.loads(filling.communicate()[0]))
        lasts = str(warm_up_seconds + seconds)
        clients = start_clients(
            url, "--models", *MODELS, "--clients", str(NUM_CLIENTS), "--seconds", lasts
        )
        time.sleep(warm_up_seconds)
        began, warm_bytes, warm_cpu = time.monotonic(), server.memory_info().rss, cpu_of(server)
        output, _ = clients.communicate()
        cores = (cpu_of(server) - warm_cpu) / (time.monotonic() - began)
        end_bytes = server.memory_info().rss
    log = (home / "app.log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log[-4000:]
    return {
        **summary(json.loads(output)),
        "warm_megabytes": round(warm_bytes / 1e6),
        "growth": round(end_bytes / warm_bytes, 4),
        "server_cores": round(cores, 2),
    }


def cpu_of(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def check(visitors: list[dict[str, Any]]) -> None:
    """Accept no error, and nobody who was not served."""
    errors = [error for visitor in visitors for error in visitor["errors"]]
    assert not errors, f"{len(errors)} errors, such as {errors[:3]}"
    assert all(visitor["num_requests"] for visitor in visitors)


def summary(visitors: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of all sessions together."""
    check(visitors)
    paces = [visitor["seconds"] / visitor["num_tokens"] for visitor in visitors]
    firsts = [seconds for visitor in visitors for seconds in visitor["first_seconds"]]
    lasted = max(visitor["seconds"] for visitor in visitors)
    return {
        "clients": len(visitors),
        "requests": sum(visitor["num_requests"] for visitor in visitors),
        "tokens_per_second": round(sum(v["num_tokens"] for v in visitors) / lasted, 1),
        "unfairness": round(max(paces) / median(paces), 3),
        "seconds_to_first_token": {
            "median": round(median(firsts), 3),
            "95th percentile": round(quantiles(firsts, n=20)[-1], 3),
        },
    }


def test_thirty_clients_for_some_seconds(tmp_path: Path) -> None:
    figures = run_load(tmp_path, seconds=6.0)
    assert figures["unfairness"] <= MOST_UNFAIR, figures


@pytest.mark.load
def test_thirty_clients_for_a_minute(tmp_path: Path) -> None:
    figures = run_load(tmp_path, seconds=60.0, warm_up_seconds=15.0)
    print(json.dumps(figures))
    assert figures["unfairness"] <= MOST_UNFAIR, figures
    assert figures["growth"] <= MOST_GROWTH, figures
