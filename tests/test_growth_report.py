"""The measurement of a growth, and its refusal of a broken promise."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from stentor.errors import OptionError, TrainingError
from stentor.loading import Checkpoint, open_checkpoint_folder
from training import expansion
from training.checkpoint import load_model
from training.expansion import Strategy, random_top
from training.growth_report import GrowthReport, measure_growth
from training.settings import WINDOW_TOKENS, ExpandSettings
from training.stages.expand import describe, grow, probe_windows, report_to_json

SETTINGS = ExpandSettings(hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4)


@pytest.fixture(scope="module")
def parent(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


def measure(
    before: LlamaForCausalLM, after: LlamaForCausalLM, *, claims_exact: bool = True
) -> GrowthReport:
    windows = torch.arange(1, 41).reshape(2, 20)
    return measure_growth(
        before,
        after,
        windows,
        width="zero_pad",
        depth="identity_interleave",
        claims_exact=claims_exact,
        seed=0,
    )


def test_the_report_says_what_happened(parent: Checkpoint) -> None:
    _, report = grow(parent, SETTINGS, seed=0)
    assert report.is_exact and report.claims_exact
    assert report.loss_before == pytest.approx(report.loss_after, rel=1e-5)
    assert report.parameters_before == parent.num_parameters < report.parameters_after
    assert report.rms_norm_eps_after == report.rms_norm_eps_before / 2
    assert report_to_json(report)["is_exact"] is True
    assert f"{report.parameters_before:,} -> {report.parameters_after:,}" in describe(report)


def test_a_growth_that_promises_nothing_is_measured_and_kept(parent: Checkpoint) -> None:
    _, report = grow(parent, replace(SETTINGS, width="slice", depth="random_top"), seed=0)
    assert not report.claims_exact and not report.is_exact
    assert report.max_logit_difference > 0.1
    assert math.isfinite(report.loss_after)


def test_a_broken_promise_is_refused(parent: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real strategy of live random layers that says it is exact."""
    liar = Strategy(random_top, True, "says it is exact")
    monkeypatch.setitem(expansion.DEPTHS, "identity_interleave", liar)
    with pytest.raises(TrainingError, match=r"should keep every logit, but one moved by .*refused"):
        grow(parent, SETTINGS, seed=0)


def test_a_forgotten_eps_is_refused(parent: Checkpoint) -> None:
    """Without halving eps the error is small, and still no rounding."""
    model = load_model(parent)
    other = load_model(parent)
    for norm in (other.model.norm, *(layer.input_layernorm for layer in other.model.layers)):
        norm.variance_epsilon = 0.05
    with pytest.raises(TrainingError, match="The grown model is refused"):
        measure(model, other)
    assert not measure(model, other, claims_exact=False).is_exact


def test_nan_is_never_exact(parent: Checkpoint) -> None:
    model, broken = load_model(parent), load_model(parent)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    with pytest.raises(TrainingError, match="one moved by nan"):
        measure(model, broken)


def test_new_vocabulary_rows_do_not_count(parent: Checkpoint) -> None:
    model, larger = load_model(parent), load_model(parent)
    larger.resize_token_embeddings(parent.shape.vocab_size + 3)
    assert measure(model, larger).max_logit_difference == 0


def test_the_probe_is_the_same_whole_windows_every_time(parent: Checkpoint) -> None:
    windows = probe_windows(parent.tokenizer, 0)
    assert windows.shape == (3, WINDOW_TOKENS)
    assert torch.equal(windows, probe_windows(parent.tokenizer, 0))


def test_heads_must_divide_the_width(parent: Checkpoint) -> None:
    with pytest.raises(OptionError, match="Hidden size 64 is no multiple of 3 heads"):
        grow(parent, replace(SETTINGS, num_heads=3), seed=0)
