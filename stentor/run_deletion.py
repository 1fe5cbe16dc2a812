"""Delete a run's folder for good.

A run is in the list whole or not at all, at whatever moment this is killed. Standard library only.
"""

import shutil

from stentor.errors import RunError
from stentor.home import runs_folder
from stentor.jobs import ACTIVE_STATES, start_lock
from stentor.run_queue import QUEUED
from stentor.runs import RUN_ID, Run, current_status, list_runs, recipe_text

# No run id begins with a dot, so nobody lists or opens what is on its way out.
DELETING = ".deleting-"


def delete_run(run: Run) -> None:
    """Remove the run with all checkpoints, out of the line as well; what a kill left goes, too.

    Raises:
        RunError: it is going, or no run of the runs folder, or another run that goes or waits
            begins with a checkpoint of it, or the disk does not let it go.
    """
    with start_lock():  # nobody starts it, or a run on top of it, meanwhile
        check_deletable(run)
        run.folder.rename(run.folder.with_name(f"{DELETING}{run.id}"))
    try:
        for leftover in runs_folder().glob(f"{DELETING}*"):
            shutil.rmtree(leftover)
    except FileNotFoundError:  # somebody else deletes it at the same time
        return
    except OSError as error:
        raise RunError(
            f"Run {run.id} is no longer listed, but files of it could not be removed ({error})."
        ) from error


def check_deletable(run: Run) -> None:
    """Raise RunError as `delete_run` does, and delete nothing."""
    folder = run.folder
    if not RUN_ID.fullmatch(run.id) or folder.parent.resolve() != runs_folder().resolve():
        raise RunError(f"{folder} is not in the runs folder {runs_folder()}; delete it by hand.")
    if folder.is_symlink():
        raise RunError(f"{folder} is a link to another folder; delete it by hand.")
    if not run.recipe_file.is_file():
        raise RunError(f"{folder} is no run folder (it has no recipe.json); delete it by hand.")
    if current_status(run).state in ACTIVE_STATES:
        raise RunError(f"Run {run.id} is still going. Stop it first, then delete it.")
    for other in list_runs():
        is_needed = current_status(other).state in (*ACTIVE_STATES, QUEUED)
        if (
            is_needed
            and other.id != run.id
            and recipe_text(other, "start").startswith(f"run:{run.id}/")
        ):
            raise RunError(f"Run {other.id} begins with a checkpoint of {run.id} and needs it.")
