"""What each worker of test_two_processes.py does: trains a tiny model and writes what it saw.

Arguments: the folder of the model, the folder to write `<rank>.json` and `<rank>.safetensors` to.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from stentor.errors import TrainingError
from stentor.loading import open_checkpoint_folder
from training.checkpoint import load_model
from training.loop import StepReport, train_steps, validation_loss
from training.network import TrainingNetwork
from training.optim import make_optimizer
from training.settings import PretrainSettings
from training.workers import Workers, open_workers

NUM_STEPS = 50
# Five windows of two workers, two at a time: three and two, and then two and one and two.
SETTINGS = PretrainSettings(
    num_steps=NUM_STEPS,
    batch_size=5,
    micro_batch_size=2,
    learning_rate=1e-3,
    warmup_fraction=0.1,
    schedule="wsd",
)
VOCABULARY = 300


def batch_of_step(step: int) -> torch.Tensor:
    """Return five windows of 32 tokens in which each token decides the next."""
    first = torch.arange(SETTINGS.batch_size).unsqueeze(1) * 31 + step
    return (first + 7 * torch.arange(32)) % VOCABULARY


def held_out() -> list[torch.Tensor]:
    """Return three batches, so that the first worker has two of them."""
    return [batch_of_step(1000), batch_of_step(1001)[:2], batch_of_step(1002)]


def train(
    folder: Path, settings: PretrainSettings, workers: Workers
) -> tuple[TrainingNetwork, Iterator[StepReport]]:
    """Return the bare network, and the steps that train it."""
    network = TrainingNetwork(load_model(open_checkpoint_folder(folder)))
    prepared = workers.prepare(network)
    optimizer = make_optimizer(prepared, settings)
    return network, train_steps(prepared, optimizer, batch_of_step, settings, workers)


def diverge(folder: Path, workers: Workers) -> list[object]:
    """Return what a worker sees when the last worker alone has a NaN in its weights."""
    network, steps = train(folder, replace(SETTINGS, num_steps=3), workers)
    next(steps)
    before = network.model.model.embed_tokens.weight.detach().clone()
    gain = network.model.model.norm.weight
    if workers.rank == workers.num_workers - 1:
        with torch.no_grad():
            gain[0] = torch.nan
    report = next(steps)
    try:
        next(steps)
    except TrainingError as error:
        is_kept = torch.equal(before, network.model.model.embed_tokens.weight)
        return [report.step, report.is_finite, str(error), is_kept]
    return []


def main() -> None:
    """Train, validate, agree and diverge."""
    folder, output = map(Path, sys.argv[1:])
    workers = open_workers(num_threads=1)
    network, steps = train(folder, SETTINGS, workers)
    reports = list(steps)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    values = {
        "losses": [report.loss for report in reports],
        "norms": [report.gradient_norm for report in reports],
        "validation": validation_loss(network, held_out(), workers),
        "of_main": workers.of_main(7 + workers.rank),
        "any": [workers.any(workers.rank == 1), workers.any(False)],
        "any_of": workers.any_of([workers.rank == 1, workers.rank == 0, False]),
        "mean": workers.mean(torch.tensor([float(workers.rank), 4.0])).tolist(),
        "rows": workers.share(batch_of_step(0))[:, 0].tolist(),
        "threads": torch.get_num_threads(),
        "diverged": diverge(folder, workers),
    }
    workers.close()
    save_file(weights, output / f"{workers.rank}.safetensors")
    (output / f"{workers.rank}.json").write_text(json.dumps(values))


if __name__ == "__main__":
    main()
