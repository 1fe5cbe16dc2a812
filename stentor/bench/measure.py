"""Measures one thing after the other and keeps the figures; says each line as it is known."""

import gc
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from stentor.bench.limits import (
    Limits,
    count_multiply_adds,
    measure_limits,
    measure_reads,
    weight_bytes,
)
from stentor.bench.peers import PEERS, Peer, measure_peer, why_skipped
from stentor.bench.report import (
    BOTH,
    CONTEXT,
    MULTIPLY_ADDS,
    OURS,
    READS,
    TOGETHER,
    USERS,
    MeasuredModel,
    Measurement,
    Share,
    line_of,
    make_measurement,
    make_share,
    model_line,
    short_name,
)
from stentor.bench.rooms import merged, press, press_repeatedly, seconds_of
from stentor.bench.subjects import Subject, make_prompts
from stentor.engine.engine import NUM_SLOTS, Engine
from stentor.engine.sampling import SamplingSettings
from stentor.engine.threads import ThreadBudget
from stentor.peers.protocol import GREEDY, SAMPLED, Job, PeerError, Run, Shape

WARM_UP_TOKENS = 4  # code is compiled, graphs are captured and memory is touched on first use


@dataclass(frozen=True)
class Plan:
    """What is asked for, checked."""

    users: tuple[int, ...]  # ascending
    contexts: tuple[int, ...]
    num_prompt_tokens: int
    settings: SamplingSettings
    precision: str
    num_threads: int
    is_compared: bool
    peers_python: str

    @property
    def compared_users(self) -> tuple[int, ...]:
        """Return the fewest and the most users: what peers are measured with."""
        return tuple(sorted({self.users[0], self.users[-1]}))


@dataclass
class Bench:
    """The figures so far; `say` gets every line for people."""

    plan: Plan
    folder: Path
    say: Callable[[str], None]
    limits: Limits = field(init=False)
    models: list[MeasuredModel] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def measure_limits(self) -> None:
        """Measure what the machine can do at most."""
        self.limits = limits = measure_limits(self.plan.precision, self.plan.num_threads)
        kernels = ", ".join(
            f"{kind} {rate / 1e9:.1f}" for kind, rate in limits.multiply_adds.items()
        )
        self.say(
            f"At most: {limits.read_bytes / 1e9:.1f} GB/s of memory read; billions of "
            f"multiply-adds/s: {kernels}; matrix product of PyTorch "
            f"{limits.matrix_product_operations / 1e9:.1f} GFLOP/s"
        )

    def measure_alone(self, subject: Subject) -> None:
        """Measure one model with each number of users and in each depth of context."""
        plan = self.plan
        with self._engine(subject, ThreadBudget(plan.num_threads)) as engine:
            for num_users in plan.users:
                self._measure_users(subject, engine, num_users, SAMPLED)
            for num_users in plan.compared_users if plan.is_compared else ():
                self._measure_users(subject, engine, num_users, GREEDY)
            for context in plan.contexts:
                if context > subject.checkpoint.shape.context_length:
                    self._note(
                        f"{short_name(subject.name)}: its context is less than {context} tokens."
                    )
                    continue
                num_new = min(plan.settings.max_new_tokens, context // 2)
                settings = replace(plan.settings, max_new_tokens=num_new)
                rooms = [(engine, make_prompts(subject.checkpoint, 1, context - num_new))]
                runs = [runs[0] for runs in press_repeatedly(rooms, settings)]
                self._add(subject.name, subject.weights, engine, runs, CONTEXT, context - num_new)
            self._add_shares(subject, engine)

    def measure_both(self, subjects: Sequence[Subject]) -> None:
        """Let the most users press the button on several models at the same moment."""
        plan = self.plan
        with ExitStack() as opened:
            budget = ThreadBudget(plan.num_threads)
            engines = [opened.enter_context(self._engine(one, budget)) for one in subjects]
            rooms = [
                (engine, make_prompts(subject.checkpoint, plan.users[-1], plan.num_prompt_tokens))
                for subject, engine in zip(subjects, engines, strict=True)
            ]
            press(rooms, replace(plan.settings, max_new_tokens=WARM_UP_TOKENS))
            pressed = sorted(press_repeatedly(rooms, plan.settings), key=seconds_of)
            runs = pressed[len(pressed) // 2]  # of two, the slower one
            for subject, engine, run in zip(subjects, engines, runs, strict=True):
                self._add(subject.name, subject.weights, engine, [run], BOTH)
            name = TOGETHER.join(subject.name for subject in subjects)
            self._add(name, subjects[0].weights, engines[0], [merged(runs)], BOTH)

    def measure_peers(self, subjects: Sequence[Subject]) -> None:
        """Measure every engine that is there; say of the others how to get them."""
        for peer in PEERS:
            python = sys.executable if peer.is_own_python else self.plan.peers_python
            skipped = why_skipped(peer, python)
            if skipped:
                self._note(skipped)
                continue
            for subject in subjects:
                self._measure_peer(peer, python, subject)

    @contextmanager
    def _engine(self, subject: Subject, budget: ThreadBudget) -> Iterator[Engine]:
        """Load a model, alone or beside others."""
        plan = self.plan
        began = time.perf_counter()
        engine = Engine(
            subject.checkpoint,
            precision=plan.precision,
            threads=budget,
            num_slots=max(NUM_SLOTS, plan.users[-1]),
        )
        load_seconds = time.perf_counter() - began
        try:
            self._add_model(subject, engine, load_seconds)
            yield engine
        finally:
            engine.close()
            gc.collect()  # the weights are large, and the next model wants their memory

    def _add_model(self, subject: Subject, engine: Engine, load_seconds: float) -> None:
        if any(model.name == subject.name for model in self.models):
            return
        model = MeasuredModel(
            name=subject.name,
            weights=subject.weights,
            revision=subject.checkpoint.revision,
            num_parameters=subject.checkpoint.num_parameters,
            precision=engine.precision,
            device=engine.device,
            num_slots=engine.num_slots,
            cache_bytes=engine.cache_bytes,
            load_seconds=round(load_seconds, 3),
        )
        self.models.append(model)
        self.say(model_line(model))

    def _measure_users(
        self, subject: Subject, engine: Engine, num_users: int, drawing: str
    ) -> None:
        plan = self.plan
        settings = plan.settings if drawing == SAMPLED else replace(plan.settings, temperature=0.0)
        rooms = [(engine, make_prompts(subject.checkpoint, num_users, plan.num_prompt_tokens))]
        press(rooms, replace(settings, max_new_tokens=WARM_UP_TOKENS))
        runs = [runs[0] for runs in press_repeatedly(rooms, settings)]
        self._add(subject.name, subject.weights, engine, runs, USERS, drawing=drawing)

    def _add(
        self,
        model: str,
        weights: str,
        engine: Engine,
        runs: Sequence[Run],
        kind: str,
        num_prompt_tokens: int | None = None,
        drawing: str = SAMPLED,
    ) -> None:
        self._keep(
            make_measurement(
                runs,
                model=model,
                weights=weights,
                engine=OURS,
                precision=engine.precision,
                drawing=drawing,
                kind=kind,
                num_threads=engine.num_threads,
                num_prompt_tokens=num_prompt_tokens or self.plan.num_prompt_tokens,
            )
        )

    def _keep(self, measurement: Measurement) -> None:
        self.measurements.append(measurement)
        self.say(line_of(measurement))

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)

    def _add_shares(self, subject: Subject, engine: Engine) -> None:
        """Say which share of a limit the fewest users (if one) and the most users reached."""
        shape, precision = subject.checkpoint.shape, engine.precision
        lines = {
            line.num_users: line
            for line in self.measurements
            if (line.model, line.kind, line.drawing) == (subject.name, USERS, SAMPLED)
        }
        if 1 in lines:
            num_bytes = weight_bytes(shape, precision)
            reached = num_bytes * lines[1].tokens_per_second_each
            possible = measure_reads(num_bytes, precision, self.plan.num_threads)
            self.shares.append(make_share(subject.name, 1, READS, reached, possible))
        most = lines[self.plan.users[-1]]
        if most.num_users > 1:
            num_others = most.num_users * (most.num_prompt_tokens - 1)
            products = count_multiply_adds(shape, most.num_tokens, num_others)
            reached = products * most.tokens_per_second / most.num_tokens
            possible = self.limits.multiply_adds[precision]
            share = make_share(subject.name, most.num_users, MULTIPLY_ADDS, reached, possible)
            self.shares.append(share)

    def _measure_peer(self, peer: Peer, python: str, subject: Subject) -> None:
        plan, checkpoint = self.plan, subject.checkpoint
        with TemporaryDirectory(dir=self.folder) as work_folder:
            job = Job(
                folder=str(checkpoint.folder.resolve()),
                files=tuple(str(file.resolve()) for file in checkpoint.files),
                shape=Shape(**asdict(checkpoint.shape)),
                work_folder=work_folder,
                prompts=make_prompts(checkpoint, plan.users[-1], plan.num_prompt_tokens),
                users=plan.compared_users,
                num_tokens=plan.settings.max_new_tokens,
                temperature=plan.settings.temperature,
                top_p=plan.settings.top_p,
                num_threads=plan.num_threads,
                is_on_gpu=plan.precision == "bf16",
            )
            try:
                answer, notes = measure_peer(peer, python, job)
            except PeerError as error:
                self._note(f"{peer.title} on {short_name(subject.name)}: {error}.")
                return
        self.versions[peer.title] = answer.version
        for note in notes:
            self._note(f"{peer.title} on {short_name(subject.name)}: {note}.")
        for series in answer.series:
            self._keep(
                make_measurement(
                    series.runs,
                    model=subject.name,
                    weights=subject.weights,
                    engine=series.engine,
                    precision=series.precision,
                    drawing=series.drawing,
                    kind=USERS,
                    num_threads=series.num_threads,
                    num_prompt_tokens=plan.num_prompt_tokens,
                )
            )
