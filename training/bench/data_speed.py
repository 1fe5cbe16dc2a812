"""How fast text becomes windows, ours beside datasets.map, and how memory grows with the text."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from training.bench.children import ChildError, measure_in_child
from training.bench.plan import DATASETS, OURS, DataAnswer, DataJob, Plan
from training.bench.report import (
    DataSpeed,
    Flatness,
    data_line,
    data_ratio,
    flatness_line,
    make_data_speed,
    make_flatness,
)
from training.bench.subjects import write_text

MODULES = {OURS: "training.bench.own_data", DATASETS: "training.bench.datasets_peer"}
# The smaller of two texts is this part of the larger.
SMALL_PART = 0.1


@dataclass
class DataBench:
    """The figures of text so far; `say` gets lines for people, `progress` what happens."""

    plan: Plan
    model_folder: Path  # whose tokenizer is used
    folder: Path
    say: Callable[[str], None]
    progress: Callable[[str], None]
    speeds: list[DataSpeed] = field(default_factory=list)
    ratio: float | None = None
    flatness: Flatness | None = None
    notes: list[str] = field(default_factory=list)

    def measure_speed(self) -> None:
        """Prepare one text both ways, in turns; datasets with one process and with all cores."""
        with TemporaryDirectory(dir=self.folder) as folder:
            file = Path(folder) / "text.jsonl"
            num_bytes = round(self.plan.options.megabytes * 1e6)
            text_bytes = write_text(file, num_bytes, self.plan.text)
            ways = dict.fromkeys(
                ((OURS, 1), (DATASETS, 1), (DATASETS, max(1, self.plan.num_threads)))
            )
            found: dict[tuple[str, int], list[DataAnswer]] = {way: [] for way in ways}
            for turn in range(self.plan.options.repeats):
                for way in found:
                    self.progress(f"text with {way[0]}: {turn + 1} of {self.plan.options.repeats}")
                    answer = self._measure(file, *way)
                    if answer is not None:
                        found[way].append(answer)
        for (name, num_processes), answers in found.items():
            if answers:
                speed = make_data_speed(name, num_processes, text_bytes, answers)
                self.speeds.append(speed)
                self.say(data_line(speed))
        self.ratio = data_ratio(self.speeds)
        if self.ratio is not None:
            self.say(f"Text: {OURS} is {self.ratio:.2f} times as fast as the best of {DATASETS}")

    def measure_flatness(self) -> None:
        """Prepare a text and a text ten times as long, and compare the memory."""
        large = round(self.plan.options.gigabytes * 1e9)
        sizes, answers = [], []
        for num_bytes in (round(large * SMALL_PART), large):
            with TemporaryDirectory(dir=self.folder) as folder:
                file = Path(folder) / "text.jsonl"
                self.progress(f"writing and preparing {num_bytes / 1e9:.2f} GB of text")
                sizes.append(write_text(file, num_bytes))
                answer = self._measure(file, OURS, 1)
            if answer is None:
                return
            answers.append(answer)
        self.flatness = make_flatness((sizes[0], sizes[1]), answers[0], answers[1])
        self.say(flatness_line(self.flatness))

    def _measure(self, file: Path, way: str, num_processes: int) -> DataAnswer | None:
        """Return what one process measured, or None and a note."""
        with TemporaryDirectory(dir=self.folder) as work_folder:
            job = DataJob(
                text_file=str(file),
                folder=str(self.model_folder.resolve()),
                work_folder=work_folder,
                num_processes=num_processes,
                num_threads=self.plan.num_threads,
            )
            try:
                return measure_in_child(MODULES[way], job, DataAnswer, Path(work_folder))
            except ChildError as error:
                self.notes.append(f"Text with {way}: {error}.")
                self.say(self.notes[-1])
                return None
