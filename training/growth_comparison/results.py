"""What one training run of a comparison gave, and the file of such results. No torch here.

`results.jsonl` holds one result a line, appended as soon as a run ends, so that an interrupted
comparison goes on where it was.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from stentor.errors import OptionError, RunError
from stentor.knobs import from_json

RESULTS_FILE = "results.jsonl"


@dataclass(frozen=True)
class Point:
    """One measurement during a run: after `step` steps, loss on the held-out text in nats.

    `half_difference`: |W_top - W_bottom| / |W| of a clone, the mean over the query and gate
    matrices of all layers: 0 where the halves are the same, about 1 where they are unrelated.
    """

    step: int
    tokens: int
    validation_loss: float
    half_difference: float | None = None


@dataclass(frozen=True)
class Result:
    """One run: a strategy at a share of the learning rate, with one seed.

    `flops_per_token` counts forward and backward of training. Logits and the divergence (small
    model || grown one, nats per token) compare both on a fixed probe. `error`: why a run ended.
    """

    strategy: str
    rate_factor: float
    seed: int
    learning_rate: float
    num_parameters: int
    flops_per_token: float
    max_logit_difference: float | None
    max_logit: float | None
    kl_divergence: float | None
    points: tuple[Point, ...]
    seconds: float
    error: str | None = None

    @property
    def key(self) -> tuple[str, float, int]:
        """Return what tells this run from the others of its comparison."""
        return self.strategy, self.rate_factor, self.seed

    @property
    def is_complete(self) -> bool:
        """Tell whether the run came to its end."""
        return self.error is None and bool(self.points)

    @property
    def final_loss(self) -> float:
        """Return the last validation loss, in nats per token."""
        return self.points[-1].validation_loss


def append_result(folder: Path, result: Result) -> None:
    """Add one line to the results; a half line of a killed process is ended first."""
    path = folder / RESULTS_FILE
    is_broken = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    line = json.dumps(asdict(result)) + "\n"
    with path.open("a", encoding="utf-8") as stream:
        stream.write("\n" + line if is_broken else line)


def read_results(folder: Path) -> list[Result]:
    """Return the results in the order they came; of the same run done twice, the later one.

    Raises:
        RunError: the file cannot be read, or a whole line of it is not a result.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error}).") from error
    found: dict[tuple[str, float, int], Result] = {}
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError:  # the half line of a killed process, or the end of the file
            continue
        try:
            result = from_json(Result, values)
        except OptionError as error:
            raise RunError(f"{path}, line {number} is no result: {error}") from error
        found[result.key] = result
    return list(found.values())
