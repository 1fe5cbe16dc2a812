"""Tokens per second and peak memory: each line in processes of its own, taken in turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from training.bench.children import ChildError, measure_in_child
from training.bench.plan import (
    OURS,
    TRAINER,
    CeilingAnswer,
    CeilingJob,
    Line,
    Plan,
    TrainAnswer,
    TrainJob,
)
from training.bench.report import (
    Memory,
    Ratio,
    Speed,
    ceiling_line,
    make_memory,
    make_ratios,
    make_speed,
    memory_line,
    ratio_lines,
    speed_heading,
    speed_line,
)
from training.bench.subjects import Subject, write_windows
from training.flops import training_flops_per_token
from training.settings import WINDOW_TOKENS

CEILING = "training.bench.ceiling"
MODULES = {OURS: "training.bench.own_loop", TRAINER: "training.bench.trainer_peer"}


@dataclass
class SpeedBench:
    """The figures of all loops so far; `say` gets lines for people, `progress` what happens."""

    plan: Plan
    device: str
    folder: Path
    say: Callable[[str], None]
    progress: Callable[[str], None]
    ceilings: dict[str, float] = field(default_factory=dict)  # by precision, operations a second
    speeds: list[Speed] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def measure_speed(self, subjects: Sequence[Subject], lines: Sequence[Line]) -> None:
        """Measure every line of every model, and compare ours with the Trainer."""
        precisions = dict.fromkeys(line.precision for line in lines)
        for precision in precisions:
            self._measure_ceiling(precision)
        for subject in subjects:
            answers = self._in_turns(subject, lines)
            for precision in precisions:
                self._measure_ceiling(precision)
                if precision in self.ceilings:
                    self.say(ceiling_line(precision, self.ceilings[precision]))
            self.say(speed_heading())
            for line, own in answers.items():
                if own and line.precision in self.ceilings:
                    self._keep_speed(subject, line, own)
            ratios = make_ratios(subject.name, answers)
            self.ratios += ratios
            for text in ratio_lines(ratios):
                self.say(text)

    def measure_memory(self, subjects: Sequence[Subject], lines: Sequence[Line]) -> None:
        """Measure the peak of each of our lines in one short run and compare the prediction."""
        for subject in subjects:
            for line in lines:
                if line.loop != OURS:
                    continue
                answer = self._measure(subject, line, warmup_steps=1, num_steps=1)
                if answer is not None:
                    _, micro_batch_size = self._sizes(subject)
                    memory = make_memory(subject.name, line, micro_batch_size, answer)
                    self.memories.append(memory)
                    self.say(memory_line(memory))

    def _in_turns(
        self, subject: Subject, lines: Sequence[Line]
    ) -> dict[Line, Sequence[TrainAnswer]]:
        """Return the answers of each line; a line that failed once is left out."""
        options = self.plan.options
        found: dict[Line, list[TrainAnswer]] = {line: [] for line in lines}
        failed: set[Line] = set()
        for turn in range(options.repeats):
            # Every other turn goes backwards, so that a machine that slows down favours nobody.
            for line in lines if turn % 2 == 0 else lines[::-1]:
                if line in failed:
                    continue
                self.progress(
                    f"{subject.name}, {line.title}, {line.precision}: {turn + 1} of "
                    f"{options.repeats}"
                )
                answer = self._measure(subject, line, options.warmup_steps, options.steps)
                if answer is None:
                    failed.add(line)
                else:
                    found[line].append(answer)
        return {line: [] if line in failed else answers for line, answers in found.items()}

    def _measure(
        self, subject: Subject, line: Line, warmup_steps: int, num_steps: int
    ) -> TrainAnswer | None:
        """Return what one process measured, or None and a note."""
        batch_size, micro_batch_size = self._sizes(subject)
        with TemporaryDirectory(dir=self.folder) as work_folder:
            windows_file = Path(work_folder) / "windows.npy"
            num_windows = (warmup_steps + num_steps) * batch_size
            write_windows(subject.checkpoint, num_windows, windows_file)
            job = TrainJob(
                line=line,
                folder=str(subject.checkpoint.folder.resolve()),
                windows_file=str(windows_file),
                work_folder=work_folder,
                device=self.device,
                batch_size=batch_size,
                micro_batch_size=micro_batch_size,
                warmup_steps=warmup_steps,
                num_steps=num_steps,
                num_threads=self.plan.num_threads,
            )
            try:
                module = MODULES[line.loop]
                return measure_in_child(module, job, TrainAnswer, Path(work_folder))
            except ChildError as error:
                self._note(f"{subject.name}, {line.title}, {line.precision}: {error}.")
                return None

    def _sizes(self, subject: Subject) -> tuple[int, int]:
        """Return windows per step and per forward pass, as asked for or as the model says."""
        options = self.plan.options
        batch_size = options.batch_size or subject.batch_size
        return batch_size, options.micro_batch_size or min(subject.micro_batch_size, batch_size)

    def _measure_ceiling(self, precision: str) -> None:
        """Keep the best of all times: what else runs here makes a product slower, never faster."""
        self.progress(f"the largest matrix product rate in {precision}")
        job = CeilingJob(self.device, precision, self.plan.num_threads)
        with TemporaryDirectory(dir=self.folder) as work_folder:
            try:
                answer = measure_in_child(CEILING, job, CeilingAnswer, Path(work_folder))
            except ChildError as error:
                self._note(f"The largest matrix product rate in {precision}: {error}.")
                return
        self.ceilings[precision] = max(self.ceilings.get(precision, 0.0), answer.operations)

    def _keep_speed(self, subject: Subject, line: Line, answers: Sequence[TrainAnswer]) -> None:
        speed = make_speed(
            subject.name,
            line,
            self._sizes(subject),
            answers,
            flops_per_token=training_flops_per_token(subject.checkpoint.shape, WINDOW_TOKENS),
            ceiling=self.ceilings[line.precision],
        )
        self.speeds.append(speed)
        self.say(speed_line(speed))

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)
