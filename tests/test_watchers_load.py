"""Ten browsers watch one run for two minutes: nobody misses a step, and nothing grows.

    python -m pytest -m load -s tests/test_watchers_load.py

The run has 100,000 steps behind it and appends ten events a second while it is watched. The
watchers are a process of their own (watch_client.py) and ask what the page asks, over HTTP. Before
them the same server is measured with nobody, with one watcher, and with ten that ask for nothing,
so that the figures tell what watching costs beside what ten requests a second cost in Gradio.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from load_server import ROOT, app_process

from stentor.runs import Run, Status, append_event, create_run, process_start, write_status
from training.recipe import recipe_to_json
from training.recipes import find_recipe

NUM_WATCHERS = 10
NUM_STEPS_BEFORE = 100_000
TOKENS_PER_STEP = 2_048
EVENTS_PER_SECOND = 10.0
WARM_UP_SECONDS = 30.0
# The events themselves are kept in memory: about 150 bytes a step. The rest is the allocator's.
MOST_GROWTH_MEGABYTES = 8.0
# Of one core, for ten watchers, beyond what the same requests cost that ask for nothing.
MOST_CORES_OF_WATCHING = 0.15
GPUS = ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090")


def metrics(step: int) -> dict[str, Any]:
    return {
        "stage": "general",
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "loss": 2.0 + 3.0 / (1.0 + step / 1_000) + (step * 7_919 % 101) / 1_000,
        "learning_rate": 1e-3,
        "gradient_norm": 1.0 + (step * 104_729 % 97) / 100,
        "tokens_per_second": 20_480.0,
        "mfu": 0.31,
    }


def load_of_machine(step: int) -> dict[str, Any]:
    gpu = {
        "utilisation": 97.0,
        "memory_bytes": 20_000_000_000,
        "total_bytes": 24_000_000_000,
        "power_watts": 410.0,
        "power_limit_watts": 450.0,
        "temperature": 71.0,
        "throttle": [],
    }
    return {
        "stage": "general",
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "cpu_percent": 40.0,
        "memory_bytes": 3_000_000_000,
        "memory_used_bytes": 9_000_000_000,
        "memory_total_bytes": 64_000_000_000,
        "disk_free_bytes": 200_000_000_000,
        "gpu": [{"index": index, "name": name, **gpu} for index, name in enumerate(GPUS)],
    }


def sample(step: int, number: int) -> dict[str, Any]:
    return {
        "stage": "general",
        "step": step,
        "tokens": step * TOKENS_PER_STEP,
        "point": "checkpoint",
        "checkpoint": f"general-{step:06d}",
        "number": number,
        "prompt": "The old lighthouse",
        "text": " stood at the end of the pier, and the keeper wrote down every ship. " * 4,
        "seed": 7,
        "settings": {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 80},
        "precision": "fp32",
    }


def long_run() -> Run:
    """Return a run that goes on in this process, with NUM_STEPS_BEFORE steps behind it."""
    run = create_run(recipe_to_json(find_recipe("practice")), "watched")
    beat(run, NUM_STEPS_BEFORE)
    began = time.time() - NUM_STEPS_BEFORE / EVENTS_PER_SECOND
    append_event(run, "machine", name="CPU", num_cores=2, torch_version="2")
    append_event(
        run,
        "stage_started",
        stage="general",
        stage_kind="pretrain",
        title="General",
        step=0,
        total_steps=2 * NUM_STEPS_BEFORE,
        tokens=0,
    )
    with run.events_file.open("a", encoding="utf-8") as stream:
        for step in range(1, NUM_STEPS_BEFORE + 1):
            moment = {"v": 1, "t": began + step / EVENTS_PER_SECOND}
            stream.write(json.dumps({**moment, "kind": "metrics", **metrics(step)}) + "\n")
            if step % 5_000 == 0:
                for number in range(4):
                    event = {**moment, "kind": "sample", **sample(step, number)}
                    stream.write(json.dumps(event) + "\n")
    return run


def beat(run: Run, step: int) -> None:
    status = Status(
        state="running",
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        heartbeat=time.time(),
        stage="general",
        step=step,
        total_steps=2 * NUM_STEPS_BEFORE,
    )
    write_status(run, status)


@contextmanager
def training(run: Run) -> Iterator[None]:
    """Append what a trainer would, at ten steps a second, while the block lasts."""
    is_over = threading.Event()

    def train() -> None:
        began, step = time.monotonic(), NUM_STEPS_BEFORE
        while not is_over.wait(0.01):
            due = NUM_STEPS_BEFORE + int((time.monotonic() - began) * EVENTS_PER_SECOND)
            while step < due:
                step += 1
                append_event(run, "metrics", **metrics(step))
                if step % 50 == 0:
                    append_event(run, "system", **load_of_machine(step))
                if step % 20 == 0:
                    beat(run, step)
                    with run.log_file.open("a", encoding="utf-8") as log:
                        log.write(f"step {step}\n")
                if step % 300 == 0:
                    append_event(run, "sample", **sample(step, 0))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def start_watchers(url: str, run_id: str, number: int, seconds: float) -> "subprocess.Popen[str]":
    program = str(ROOT / "tests" / "watch_client.py")
    flags = ("--run", run_id, "--watchers", str(number), "--seconds", str(seconds))
    return subprocess.Popen(
        [sys.executable, program, url, *flags], stdout=subprocess.PIPE, text=True
    )


def seconds_of_cores(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def cores_used(server: psutil.Process, url: str, run_id: str, number: int, seconds: float) -> float:
    """Return how many cores the server keeps busy; None of its watchers may meet an error."""
    began, before = time.monotonic(), seconds_of_cores(server)
    if number:
        output, _ = start_watchers(url, run_id, number, seconds).communicate()
        check(json.loads(output), run_id)
    else:
        time.sleep(seconds)
    return (seconds_of_cores(server) - before) / (time.monotonic() - began)


def check(watchers: list[dict[str, Any]], run_id: str) -> None:
    """Accept no error, no step that was missed or came twice, and one whole answer for each."""
    for watcher in watchers:
        assert not watcher["errors"], watcher["errors"]
        assert watcher["num_polls"]
        if run_id:
            steps = watcher["steps"]
            assert steps == [steps[0] + place for place in range(len(steps))]
            assert watcher["num_wholes"] == 1


def soak(home: Path, seconds: float, warm_up: float) -> dict[str, Any]:
    """Return the figures of ten watchers in the `seconds` after the warm-up."""
    run = long_run()
    with app_process(home) as (url, server), training(run):
        cores_used(server, url, run.id, 1, warm_up / 3)  # reads the whole file, once
        cores = {
            "nobody": cores_used(server, url, "", 0, warm_up),
            "one": cores_used(server, url, run.id, 1, warm_up),
            "ten for nothing": cores_used(server, url, "", NUM_WATCHERS, warm_up),
        }
        watching = start_watchers(url, run.id, NUM_WATCHERS, warm_up + seconds)
        time.sleep(warm_up)
        warm, began, before = server.memory_info().rss, time.monotonic(), seconds_of_cores(server)
        memory = [warm]
        while watching.poll() is None and time.monotonic() - began < seconds - 1.0:
            time.sleep(1.0)
            memory.append(server.memory_info().rss)
        cores["ten"] = (seconds_of_cores(server) - before) / (time.monotonic() - began)
        watchers = json.loads(watching.communicate()[0])
    check(watchers, run.id)
    log = (home / "app.log").read_text(encoding="utf-8")
    assert "Traceback" not in log, log[-4000:]
    answers = [value for watcher in watchers for value in watcher["seconds"]]
    return {
        "answers": len(answers),
        "steps_seen_by_each": min(len(watcher["steps"]) for watcher in watchers),
        "median_seconds": round(median(answers), 4),
        "slowest_seconds": round(max(answers), 3),
        "kilobytes_an_answer": round(sum(w["num_bytes"] for w in watchers) / len(answers) / 1e3, 1),
        "warm_megabytes": round(warm / 1e6, 1),
        "growth_megabytes": round((max(memory) - warm) / 1e6, 1),
        "cores": {name: round(value, 3) for name, value in cores.items()},
    }


@pytest.mark.load
def test_ten_watchers_for_two_minutes(stentor_home: Path) -> None:
    stentor_home.mkdir(parents=True)
    figures = soak(stentor_home, seconds=120.0, warm_up=WARM_UP_SECONDS)
    print(json.dumps(figures))
    assert figures["growth_megabytes"] <= MOST_GROWTH_MEGABYTES, figures
    cores = figures["cores"]
    assert cores["ten"] - cores["ten for nothing"] <= MOST_CORES_OF_WATCHING, figures
