"""Where everything of a run is: the paths of its folder. What they hold is told in runs.py."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """A run folder; the properties are paths, whether or not the files exist yet."""

    folder: Path

    @property
    def id(self) -> str:
        """Return the folder's name, unique below the runs folder."""
        return self.folder.name

    @property
    def recipe_file(self) -> Path:
        """Return the path of the complete input."""
        return self.folder / "recipe.json"

    @property
    def command_file(self) -> Path:
        """Return the path of the command line that started the run."""
        return self.folder / "command.txt"

    @property
    def status_file(self) -> Path:
        """Return the path of the state."""
        return self.folder / "status.json"

    @property
    def events_file(self) -> Path:
        """Return the path of the event log."""
        return self.folder / "events.jsonl"

    @property
    def log_file(self) -> Path:
        """Return the path of the child's output."""
        return self.folder / "log.txt"

    @property
    def stop_file(self) -> Path:
        """Return the path whose existence asks for a stop."""
        return self.folder / "stop"

    @property
    def save_file(self) -> Path:
        """Return the path whose existence asks for a checkpoint; the trainer removes it."""
        return self.folder / "save"

    @property
    def sample_file(self) -> Path:
        """Return the path whose existence asks for samples; the trainer removes it."""
        return self.folder / "sample"

    @property
    def data_folder(self) -> Path:
        """Return the folder of packed tokens."""
        return self.folder / "data"

    @property
    def checkpoints_folder(self) -> Path:
        """Return the folder of complete checkpoints."""
        return self.folder / "checkpoints"
