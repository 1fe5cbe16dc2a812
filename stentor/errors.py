"""Errors whose message is meant for the user: what was wrong, what was received, what to do.

    StentorError
    ├── OptionError    an option or a name that is not allowed
    ├── ModelError     a checkpoint that cannot be found or loaded
    ├── PromptError    text that cannot be generated from
    ├── BusyError      more requests than the room can hold; later it works
    ├── DataError      training text that cannot be read
    ├── RunError       a run folder that is missing, busy or damaged
    └── TrainingError  a training step or an expansion that must not go on

Anything else that is raised is our own mistake and is shown as such.
"""

INTERRUPTED = 130  # exit code of a command: what a shell reports after Ctrl-C


class StentorError(Exception):
    """A message for the user; every front end prints it without a traceback."""


class OptionError(StentorError):
    """An option out of its range, or a name that does not exist."""


class ModelError(StentorError):
    """A checkpoint that cannot be found or loaded."""


class PromptError(StentorError):
    """Text that cannot be generated from."""


class BusyError(StentorError):
    """More requests than the room can hold; the same request works later."""


class DataError(StentorError):
    """Training text that cannot be read."""


class RunError(StentorError):
    """A run folder that is missing, busy or damaged."""


class TrainingError(StentorError):
    """A training step or an expansion that must not go on."""
