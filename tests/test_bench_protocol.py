"""What the benchmark and its peers say to each other, and by which rule runs are repeated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stentor.knobs import to_json
from stentor.peers.protocol import (
    MAX_RUNS,
    SAMPLED,
    Answer,
    Run,
    Series,
    median_run,
    read_answer,
    repeated,
)
from stentor.peers.stored_weights import read_tensors


def test_an_answer_arrives_as_it_was_sent() -> None:
    run = Run((0.5, 1), (2.0, 3.5), 20)
    sent = Answer("1.2", ("a note",), (Series("a", "fp32", SAMPLED, 2, 4, 0.25, (run, run)),))
    assert read_answer(json.dumps(to_json(sent))) == sent
    assert (run.seconds, run.tokens_per_second) == (3.5, 20 / 3.5)


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, MAX_RUNS), (1.0, 3), (2.0, 2), (9.0, 1)])
def test_short_runs_are_repeated(seconds: float, expected: int) -> None:
    assert len(repeated(lambda: Run((0.1,), (seconds,), 5))) == expected


def test_the_slower_of_two_is_their_median() -> None:
    slow, fast = Run((0.1,), (2.0,), 10), Run((0.1,), (1.0,), 10)
    assert median_run([fast, slow]) == slow
    assert median_run([fast, slow, fast]) == fast


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_are_read_without_torch_as_torch_reads_them(
    tmp_path: Path, kind: torch.dtype
) -> None:
    weights = {
        "a": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).to(kind),
        "b": torch.tensor([0.0, -1.5, 2.0**-12], dtype=kind),
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = dict(read_tensors([str(tmp_path / "model.safetensors")]))
    assert set(found) == {"a", "b"}
    for name, tensor in weights.items():
        np.testing.assert_array_equal(found[name], tensor.float().numpy())
