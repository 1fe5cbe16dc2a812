"""A process that has imported the trainer once and forks a child for each attempt at a run.

A fresh Python with torch takes seconds to start; a fork takes milliseconds, and is as real a
process: it can be killed, limited, and run out of disk. Not for production: forking is safe here
only because nothing computes, and so no thread exists, before the fork.

Run as a script it reads one JSON command a line, and answers each with one line: the exit code of
a child, negative where a signal ended it.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class ForkServer:
    """The test's side: starts runs one at a time and learns how they ended."""

    def __init__(self, home: Path) -> None:
        variables = {**os.environ, "STENTOR_HOME": str(home), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**variables, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )

    def start(
        self, folder: Path, *, die_at: tuple[str, int] | None = None, max_file: int | None = None
    ) -> int:
        """Fork a child that runs the run of `folder`; return its pid.

        `die_at`: the child kills itself with SIGKILL right before the n-th call of `fsync`,
        `rename`, `replace` or `rmtree`. `max_file`: no file of it may become larger.
        """
        command = {"folder": str(folder), "die_at": die_at, "max_file": max_file}
        self._write(command)
        return int(self._read())

    def wait(self) -> int:
        """Return how the child ended: an exit code, or minus the number of a signal."""
        return int(self._read())

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server is gone"
        return line


def serve() -> None:
    """Fork a child for each command on the standard input; one at a time."""
    from stentor.runs import Run  # noqa: PLC0415 - the test's side needs none of it
    from training.runner import execute  # noqa: PLC0415

    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _prepare(command)
                code = execute(Run(Path(command["folder"])))
            except Exception:  # noqa: BLE001 - whatever it is, this child must not serve on
                traceback.print_exc()
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _prepare(command: dict[str, Any]) -> None:
    """Give a child its own output and its faults."""
    log = os.open(Path(command["folder"]) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    empty = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, empty), (1, log), (2, log)):
        os.dup2(source, target)
    if command["max_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command["max_file"],) * 2)
    if command["die_at"] is not None:
        _die_at(*command["die_at"])


def _die_at(name: str, count: int) -> None:
    """Kill this process right before the `count`-th call of a function that changes the disk."""
    import shutil  # noqa: PLC0415 - patched here, in the child alone

    owner: Any = {"fsync": os, "rmtree": shutil}.get(name, Path)
    original: Callable[..., object] = getattr(owner, name)
    calls = 0

    def counted(*values: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*values, **named)

    setattr(owner, name, counted)


if __name__ == "__main__":
    serve()
