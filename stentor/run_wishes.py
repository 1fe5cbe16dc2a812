"""What a run can be asked for while it goes: files that the trainer sees after its current step.

Knows no process: whether a run is going is asked by the caller. Standard library only.
"""

from pathlib import Path

from stentor.errors import RunError
from stentor.runs import Run


def ask_to_stop(run: Run) -> None:
    """Ask the run to save a checkpoint and end.

    Raises:
        RunError: the wish cannot be written; so for the others.
    """
    _ask(run.stop_file)


def ask_to_save(run: Run) -> None:
    """Ask the run to save a checkpoint and go on."""
    _ask(run.save_file)


def ask_to_sample(run: Run) -> None:
    """Ask the run to continue its sample prompts and go on."""
    _ask(run.sample_file)


def forget_wishes(run: Run) -> None:
    """Remove what was asked of a run before it starts."""
    for path in (run.stop_file, run.save_file, run.sample_file):
        path.unlink(missing_ok=True)


def _ask(path: Path) -> None:
    try:
        path.touch()
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}).") from error
