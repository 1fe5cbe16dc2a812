"""One training run of a comparison, and the rehearsal that measures how fast this machine is.

Every run starts from the same small model and reads the very same batches as the others of its
seed; the seed also draws the new weights. Writes no file.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import nn
from transformers import LlamaForCausalLM

from stentor.errors import TrainingError
from stentor.knobs import from_json
from stentor.loading import Checkpoint, LlamaShape
from training.checkpoint import load_model
from training.data import StageData
from training.expansion import grown_shape, plan_growth
from training.flops import training_flops_per_token
from training.growth_comparison.options import CONTINUED, growth_of, is_clone
from training.growth_comparison.plan import Plan, Speeds, Target, evaluation_steps
from training.growth_comparison.results import Point, Result
from training.growth_report import GrowthReport
from training.loop import StepReport, train_steps, validation_loss
from training.network import TrainingNetwork, resolve_precision
from training.optim import make_optimizer
from training.settings import WINDOW_TOKENS, ExpandSettings, PretrainSettings
from training.stages.expand import grow
from training.workers import Workers

# Windows of one validation batch; a larger one is not faster on a CPU.
VALIDATION_BATCH = 4
REHEARSAL_STEPS = 4
# Matrices whose rows are the heads and the SwiGLU units: those a clone repeats.
HALVED = ("self_attn.q_proj.weight", "mlp.gate_proj.weight")


@dataclass(frozen=True)
class Experiment:
    """What all runs of a comparison share. `open_data(seed)` gives the batches of one seed."""

    parent: Checkpoint
    plan: Plan
    workers: Workers
    open_data: Callable[[int], StageData]

    def settings(
        self, learning_rate: float = 1e-3, num_steps: int | None = None
    ) -> PretrainSettings:
        """Return how every run is trained."""
        return PretrainSettings(
            num_steps=self.plan.steps if num_steps is None else num_steps,
            batch_size=self.plan.batch_size,
            micro_batch_size=min(4, self.plan.batch_size),
            learning_rate=learning_rate,
            optimizer=self.plan.optimizer,
            precision=self.plan.precision,
            warmup_fraction=0.1,
            final_fraction=0.1,
            validation_windows=self.plan.validation_windows,
        )


def target_of(
    source: LlamaShape,
    hidden_size: int | None,
    intermediate_size: int | None,
    num_layers: int | None,
    num_heads: int | None,
) -> Target:
    """Return the sizes of the large model; what is None follows from the small one.

    Doubled width and ten layers for seven is how both pairs of the playground grew.
    """
    return Target(
        hidden_size=hidden_size or 2 * source.hidden_size,
        intermediate_size=intermediate_size or 2 * source.intermediate_size,
        num_layers=num_layers or round(source.num_layers * 10 / 7),
        num_heads=num_heads or 2 * source.num_heads,
    )


def check_strategies(source: LlamaShape, plan: Plan) -> None:
    """Make sure, before anything is trained, that every strategy can serve.

    Raises:
        OptionError, TrainingError: one cannot; the message says why.
    """
    for strategy in plan.strategies:
        _rate_factor(source, plan, strategy)


def _rate_factor(source: LlamaShape, plan: Plan, strategy: str) -> float:
    """Return what a strategy multiplies the learning rate by: a clone of twice the width, 1/2."""
    growth = growth_of(strategy)
    if growth is None:
        return 1.0
    target = grown_shape(source, **vars(plan.target))
    return plan_growth(source, target, seed=0, **growth).learning_rate_factor


def start_model(
    parent: Checkpoint, plan: Plan, strategy: str, seed: int
) -> tuple[LlamaForCausalLM, GrowthReport | None]:
    """Return the model a run begins with, and what growing did; None: it did not grow."""
    growth = growth_of(strategy)
    if growth is None:
        return load_model(parent), None
    settings = from_json(ExpandSettings, {**growth, **vars(plan.target)})
    return grow(parent, settings, seed)


def train_run(
    experiment: Experiment,
    strategy: str,
    rate_factor: float,
    seed: int,
    report: Callable[[Point], None],
) -> Result:
    """Train one model of the comparison; `report` is told every measurement.

    A run that diverges is a result too: its error says so.
    """
    plan, source = experiment.plan, experiment.parent.shape
    started = time.perf_counter()
    model, growth = start_model(experiment.parent, plan, strategy, seed)
    rate = plan.learning_rate * rate_factor * _rate_factor(source, plan, strategy)
    shape = grown_shape(source, **vars(plan.target)) if growth else source
    copied = source if is_clone(strategy) else None
    points: list[Point] = []
    error = None
    try:
        for point in _measured_steps(experiment, model, experiment.settings(rate), seed, copied):
            points.append(point)
            report(point)
            if not math.isfinite(point.validation_loss):
                raise TrainingError(f"Validation loss {point.validation_loss} at {point.step}.")
    except TrainingError as problem:
        error = str(problem)
    return Result(
        strategy=strategy,
        rate_factor=rate_factor,
        seed=seed,
        learning_rate=rate,
        num_parameters=model.num_parameters(),
        flops_per_token=training_flops_per_token(shape, WINDOW_TOKENS),
        max_logit_difference=growth.max_logit_difference if growth else None,
        max_logit=growth.max_logit if growth else None,
        kl_divergence=growth.kl_divergence if growth else None,
        points=tuple(points),
        seconds=time.perf_counter() - started,
        error=error,
    )


def _measured_steps(
    experiment: Experiment,
    model: LlamaForCausalLM,
    settings: PretrainSettings,
    seed: int,
    copied: LlamaShape | None,
) -> Iterator[Point]:
    """Train, and yield a measurement before the first step and after each evaluation step."""
    data = experiment.open_data(seed)
    network = _network(experiment.workers, model, settings)
    wanted = evaluation_steps(settings.total_steps())

    def measure(step: int) -> Point:
        loss = validation_loss(network, data.validation_batches(VALIDATION_BATCH))
        half = half_difference(model, copied) if copied else None
        return Point(step, step * settings.tokens_per_step(), loss, half)

    yield measure(0)
    for done in _train(
        experiment.workers,
        network,
        model,
        settings,
        lambda step: data.batch_of_step(step, settings.batch_size),
    ):
        if done.is_finite and done.step in wanted:
            yield measure(done.step)


def _network(workers: Workers, model: LlamaForCausalLM, settings: PretrainSettings) -> nn.Module:
    """Return what computes the loss, on the device."""
    precision = resolve_precision(settings.precision, workers.device)
    return workers.prepare(TrainingNetwork(model, precision=precision))


def _train(
    workers: Workers,
    network: nn.Module,
    model: LlamaForCausalLM,
    settings: PretrainSettings,
    batch_of_step: Callable[[int], torch.Tensor],
) -> Iterator[StepReport]:
    """Train with a fresh optimizer, as every run does."""
    optimizer = make_optimizer(model, settings)
    return train_steps(network, optimizer, batch_of_step, settings, workers)


def loss_before(experiment: Experiment, data: StageData) -> float:
    """Return the small model's loss on the held-out text, before any training."""
    model = load_model(experiment.parent)
    network = _network(experiment.workers, model, experiment.settings())
    return validation_loss(network, data.validation_batches(VALIDATION_BATCH))


def half_difference(model: LlamaForCausalLM, source: LlamaShape) -> float | None:
    """Return |W_top - W_bottom| / |W|, the mean over HALVED matrices of all layers.

    Top and bottom are the first two copies of the source's rows. None where a matrix was not
    widened.
    """
    rows = {
        HALVED[0]: source.num_heads * source.head_dim,
        HALVED[1]: source.intermediate_size,
    }
    shares = []
    for name, tensor in model.state_dict().items():
        num_rows = next((rows[kind] for kind in HALVED if name.endswith(kind)), None)
        if num_rows is not None and tensor.shape[0] >= 2 * num_rows:
            both = tensor[: 2 * num_rows]
            apart = torch.linalg.vector_norm(both[:num_rows] - both[num_rows:])
            shares.append(float(apart / torch.linalg.vector_norm(both)))
    return sum(shares) / len(shares) if shares else None


def rehearse(experiment: Experiment) -> Speeds:
    """Measure steps, validations and a growth on random tokens: the figures that size the plan."""
    plan, parent = experiment.plan, experiment.parent
    generator = torch.Generator().manual_seed(0)
    size = (plan.batch_size, WINDOW_TOKENS)
    windows = torch.randint(parent.shape.vocab_size, size, generator=generator)
    small = _rehearse_model(experiment, load_model(parent), windows)
    strategies = [strategy for strategy in plan.strategies if strategy != CONTINUED]
    if not strategies:
        return Speeds(small[0], small[0], small[1], small[1], 0.0)
    started = time.perf_counter()
    model, _ = start_model(parent, plan, strategies[0], 0)
    growth = time.perf_counter() - started
    large = _rehearse_model(experiment, model, windows)
    return Speeds(small[0], large[0], small[1], large[1], growth)


def _rehearse_model(
    experiment: Experiment, model: LlamaForCausalLM, windows: torch.Tensor
) -> tuple[float, float]:
    """Return the seconds of a step and of a whole validation."""
    settings = experiment.settings(num_steps=REHEARSAL_STEPS)
    network = _network(experiment.workers, model, settings)
    marks = [time.perf_counter()]
    for _ in _train(experiment.workers, network, model, settings, lambda _: windows):
        marks.append(time.perf_counter())
    steps = [after - before for before, after in pairwise(marks)]
    started = time.perf_counter()
    validation_loss(network, [windows[:VALIDATION_BATCH]])
    one = (time.perf_counter() - started) / min(VALIDATION_BATCH, len(windows))
    # The first step also prepares memory and, on a new machine, compiles.
    return median(steps[1:]), one * settings.validation_windows
