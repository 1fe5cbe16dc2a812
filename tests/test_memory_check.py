"""Memory: refused before a stage where it cannot fit, compared after it."""

from dataclasses import replace

import pytest
import torch

from stentor.errors import OptionError
from stentor.runs import Run, create_run, read_events
from training import memory_check
from training.memory import MemoryPrediction, peak_memory
from training.memory_check import memory_limit, tell_measured, tell_prediction
from training.recorder import Recorder

CPU = torch.device("cpu")
GB = 10**9
SMALL = MemoryPrediction(
    weights=GB, gradients=GB, optimizer=2 * GB, activations=GB, logits=0, process=0
)


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


def test_what_fits_is_recorded_with_its_parts(run: Run) -> None:
    small = replace(SMALL, optimizer=0, gradients=0, activations=0, weights=1000)
    tell_prediction(Recorder(run), "general", small, CPU)
    (event,) = read_events(run)
    assert (event["kind"], event["predicted"], event["parts"]["weights"]) == ("memory", 1000, 1000)
    assert event["limit"] == memory_limit(CPU) > GB


def test_what_cannot_fit_is_refused_with_the_mend(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_check, "memory_limit", lambda _: 6 * GB)
    tell_prediction(Recorder(run), "general", SMALL, CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(OptionError) as caught:
        tell_prediction(Recorder(run), "general", SMALL, CPU)
    message = str(caught.value)
    assert message.startswith("Stage general needs about 10.00 GB (weights 1.00 GB, gradients")
    assert "for each of 2 processes" in message and "this machine has 6.00 GB" in message
    assert "micro_batch_size" in message and "logits" not in message


def test_only_a_prediction_that_is_far_off_is_warned_of(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    peak = peak_memory(CPU)
    for factor in (1.0, 1.1, 4.0):
        prediction = MemoryPrediction(int(peak * factor) + int(GB * (factor > 2)), 0, 0, 0, 0, 0)
        tell_measured(Recorder(run), "general", prediction, CPU)
    kinds = [event["kind"] for event in read_events(run)]
    assert kinds == ["memory", "memory", "memory", "warning"]
    first, _, last, warning = read_events(run)
    assert first["ratio"] == pytest.approx(1, abs=0.2) and last["ratio"] < 0.3
    assert "off by more than 15 %" in warning["message"]
    assert capsys.readouterr().out.count(" at most, ") == 3, "a warning is not said twice"
