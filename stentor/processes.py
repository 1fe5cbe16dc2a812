"""Detached children, and whether a recorded process is still the one that was recorded.

Knows no run. Standard library only.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from stentor.home import assets_folder, home

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


def spawn_detached(command: list[str], log_file: Path, environment: Mapping[str, str]) -> int:
    """Run a command in a session of its own, with its output in a file; return its pid.

    It outlives whoever starts it, and no pipe of it can fill.

    Raises:
        OSError: the file cannot be written, or the command not started.
    """
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # `-m training` must be found wherever the app was started from.
            cwd=assets_folder().parent,
            env={**environment, "STENTOR_HOME": str(home()), "PYTHONUNBUFFERED": "1"},
        )
    return child.pid


def process_start(pid: int) -> str | None:
    """Return when a process was started, or None when it is gone (a zombie is gone).

    A pid alone is no proof, because pids are used again. On Linux this is `BOOT:TICKS`, the id of
    this boot and field 22 of /proc/<pid>/stat: the ticks count from the boot, so after a restart
    another process may have the same pid and the same ticks. Elsewhere it is what `ps` prints.
    """
    if not Path("/proc/self/stat").exists():
        ps = subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
        )
        return ps.stdout.strip() or None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()  # the name may hold spaces and brackets
    return None if after_name[0] in ("Z", "X") else f"{boot_id()}:{after_name[19]}"


def boot_id() -> str:
    """Return the kernel's name of this boot; empty where it does not tell."""
    try:
        return BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_alive(pid: int | None, start: str | None) -> bool:
    """Tell whether the recorded process still runs."""
    if pid is None or start is None:
        return False
    now = process_start(pid)
    if now is not None and start.isdigit():  # recorded before boots were told apart
        now = now.rpartition(":")[2]
    return now == start


def was_before_boot(start: str | None) -> bool:
    """Tell whether a recorded process belongs to an earlier boot of this machine."""
    recorded = start.rpartition(":")[0] if start else ""
    return bool(recorded and boot_id()) and recorded != boot_id()
