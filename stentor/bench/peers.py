"""Other engines on the same checkpoint, prompts and settings, each in a process of its own.

transformers runs with this Python; the others with that of an optional bench environment, because
what they need would not fit beside this project's own requirements.
"""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stentor.errors import INTERRUPTED
from stentor.knobs import to_json
from stentor.peers.protocol import Answer, Job, PeerError, read_answer

TIMEOUT_SECONDS = 1800
LOOK_SECONDS = 60
# A process that ended like this met an instruction or an address that it should not have.
CRASHES = (-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, -signal.SIGFPE)
PROJECT = Path(__file__).resolve().parent.parent.parent
LOOK = (
    "import importlib.util, sys; "
    "print(*[name for name in sys.argv[1:] if not importlib.util.find_spec(name)])"
)


@dataclass(frozen=True)
class Peer:
    """An engine to compare with; see stentor.peers."""

    title: str
    module: str
    needs: tuple[str, ...]  # modules that its Python must have
    packages: str  # what to install
    is_own_python: bool = False


PEERS = (
    Peer(
        title="transformers",
        module="stentor.peers.run_transformers",
        needs=("torch", "transformers"),
        packages="torch transformers",
        is_own_python=True,
    ),
    Peer(
        title="llama.cpp",
        module="stentor.peers.run_llama_cpp",
        needs=("llama_cpp", "gguf"),
        packages="llama-cpp-python gguf",
    ),
    Peer(
        title="OpenVINO GenAI",
        module="stentor.peers.run_openvino",
        needs=("openvino_genai", "optimum", "nncf"),
        packages="openvino-genai optimum-intel nncf",
    ),
)


def why_skipped(peer: Peer, python: str) -> str | None:
    """Return a line that says what is missing and how to install it; None where nothing is."""
    command = [python, "-c", LOOK, *peer.needs]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=LOOK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{peer.title}: skipped, {python} cannot be run ({error})."
    missing = finished.stdout.split()
    if finished.returncode == 0 and not missing:
        return None
    return (
        f"{peer.title}: skipped, this Python has no {' or '.join(missing or peer.needs)}. "
        f"Make a bench environment (python3 -m venv peers; peers/bin/pip install {peer.packages}) "
        "and give --peers-python peers/bin/python."
    )


def measure_peer(peer: Peer, python: str, job: Job) -> tuple[Answer, tuple[str, ...]]:
    """Return what the peer measured, and lines about how.

    A peer that crashes is tried once more without its code for this very processor.

    Raises:
        PeerError: it failed; the message is one line.
    """
    finished = _run(peer, python, job)
    notes: tuple[str, ...] = ()
    if finished.returncode in CRASHES:
        name = signal.Signals(-finished.returncode).name
        notes = (f"crashed with {name}; measured without its code for this very processor",)
        finished = _run(peer, python, replace(job, is_careful=True))
    if finished.returncode != 0:
        if finished.returncode in (INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        raise PeerError(f"failed with exit code {finished.returncode}: {_last(finished.stderr)}")
    answer = read_answer(finished.stdout)
    return answer, (*notes, *answer.notes)


def _run(peer: Peer, python: str, job: Job) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    try:
        return subprocess.run(
            [python, "-m", peer.module],
            input=json.dumps(to_json(job)),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd=job.work_folder,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"gave no figures within {TIMEOUT_SECONDS} seconds") from error


def _last(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"
