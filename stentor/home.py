"""Where files live: STENTOR_HOME, else the user's cache folder.

Functions, never constants, so that a test or a class room can move it.
"""

import os
from pathlib import Path


def home() -> Path:
    """Return the folder that holds everything the playground writes."""
    chosen = os.environ.get("STENTOR_HOME")
    return Path(chosen).expanduser().resolve() if chosen else _cache()


def kernels_folder() -> Path:
    """Return the folder for compiled code, which any number of homes may share."""
    return _cache() / "kernels"


def _cache() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().resolve() / "stentor"


def runs_folder() -> Path:
    """Return the folder with one folder per training run."""
    return home() / "runs"


def evaluations_folder() -> Path:
    """Return the folder with one folder per evaluation."""
    return home() / "evaluations"


def models_folder() -> Path:
    """Return the folder with the model folders that finished runs were handed over as."""
    return home() / "models"


def uploads_folder() -> Path:
    """Return the folder that keeps uploaded training text."""
    return home() / "uploads"


def assets_folder() -> Path:
    """Return the project's own `assets/` folder (shipped, never written by the app)."""
    return Path(__file__).resolve().parent.parent / "assets"
