"""The measurement of a growth, and its refusal of a broken promise."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from growth_shapes import SMALL
from transformers import LlamaForCausalLM

from stentor.errors import OptionError, TrainingError
from stentor.loading import Checkpoint, open_checkpoint_folder
from training import expansion
from training.checkpoint import load_model
from training.depths import DEPTHS
from training.expansion import plan_growth
from training.growth_report import (
    GrowthReport,
    describe,
    measure_growth,
    report_to_json,
    warnings_of,
)
from training.settings import WINDOW_TOKENS, ExpandSettings
from training.stages.expand import grow, probe_windows

SETTINGS = ExpandSettings(hidden_size=64, intermediate_size=128, num_layers=3, num_heads=4)


@pytest.fixture(scope="module")
def parent(tiny_model_folder: Path) -> Checkpoint:
    return open_checkpoint_folder(tiny_model_folder)


def measure(
    before: LlamaForCausalLM, after: LlamaForCausalLM, *, claims_exact: bool = True
) -> GrowthReport:
    shape = SMALL
    plan = plan_growth(shape, shape, width="zero_pad", depth="identity_interleave", seed=0)
    windows = torch.arange(1, 41).reshape(2, 20)
    return measure_growth(before, after, windows, replace(plan, claims_exact=claims_exact))


def test_the_report_says_what_happened(parent: Checkpoint) -> None:
    _, report = grow(parent, SETTINGS, seed=0)
    assert report.is_exact and report.claims_exact
    assert report.loss_before == pytest.approx(report.loss_after, rel=1e-5)
    assert report.parameters_before == parent.num_parameters < report.parameters_after
    assert report.rms_norm_eps_after == report.rms_norm_eps_before / 2
    assert report.kl_divergence < 1e-6
    assert len(report.residual_rms_before) == 3 and len(report.residual_rms_after) == 4
    # Half of the channels are zero; the new layer 2' adds nothing.
    expected = [rms * 0.5**0.5 for rms in report.residual_rms_before]
    assert report.residual_rms_after == pytest.approx([*expected, expected[-1]], rel=1e-5)
    text = describe(report)
    assert f"{report.parameters_before:,} -> {report.parameters_after:,}" in text
    assert "layers (' is new): 0 1 1'\n" in text
    assert "same function" in text and "learning rate" not in text
    assert f"rms_norm_eps {report.rms_norm_eps_before:g} -> {report.rms_norm_eps_after:g}" in text


def test_the_numbers_are_those_of_the_two_models(parent: Checkpoint) -> None:
    """By hand: losses as transformers has them, KL over all tokens, the stream between layers."""
    settings = replace(SETTINGS, width="slice", depth="copy_interleave", vocab_size=325)
    model, report = grow(parent, settings, seed=0)
    windows = probe_windows(parent.tokenizer, 0)
    before = load_model(parent)
    with torch.inference_mode():
        old = before(input_ids=windows, labels=windows, output_hidden_states=True)
        new = model(input_ids=windows, labels=windows)
    assert report.loss_before == pytest.approx(float(old.loss))
    assert report.loss_after == pytest.approx(float(new.loss))
    change = (old.logits - new.logits[..., :320]).abs().max()
    assert report.max_logit_difference == pytest.approx(float(change), rel=1e-4)
    p, q = old.logits.log_softmax(-1), new.logits.log_softmax(-1)[..., :320]
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    assert report.kl_divergence == pytest.approx(divergence, rel=1e-4)
    streams = old.hidden_states[:2]  # transformers puts the last one through the norm
    rms = [float(stream.square().mean().sqrt()) for stream in streams]
    assert report.residual_rms_before[:2] == pytest.approx(rms)


def test_the_report_is_plain_json(parent: Checkpoint) -> None:
    """The page and the bench read these names; growth.json holds them all."""
    _, report = grow(parent, replace(SETTINGS, width="clone"), seed=7)
    values = json.loads(json.dumps(report_to_json(report)))
    assert values["is_exact"] is True and values["claims_exact"] is True
    assert (values["width"], values["depth"]) == ("clone", "identity_interleave")
    assert (values["seed"], values["symmetry_break"]) == (7, "noise")
    assert values["layers"] == [
        {"source": 0, "is_new": False},
        {"source": 1, "is_new": False},
        {"source": 1, "is_new": True},
    ]
    assert values["learning_rate_factor"] == 0.5
    assert set(values) >= {
        "max_logit",
        "max_logit_difference",
        "loss_before",
        "loss_after",
        "parameters_before",
        "parameters_after",
        "rms_norm_eps_before",
        "rms_norm_eps_after",
        "residual_rms_before",
        "residual_rms_after",
    }
    assert "use 0.5 of the learning rate" in describe(report)


def test_what_a_trainer_should_know_is_warned_of(parent: Checkpoint) -> None:
    modest = replace(SETTINGS, hidden_size=32, intermediate_size=128, num_heads=2)
    _, small = grow(parent, modest, seed=0)
    _, large = grow(parent, SETTINGS, seed=0)
    assert warnings_of(small) == warnings_of(large) == ()
    assert "4.7 times as many parameters" in describe(large)
    assert "times as many" not in describe(small)
    _, plain = grow(parent, replace(modest, width="clone", symmetry_break="none"), seed=0)
    (warning,) = warnings_of(plain)
    assert "same gradients" in warning


def test_each_model_runs_once(parent: Checkpoint) -> None:
    """Both once ran twice, for the logits and again for the loss: seconds at full size."""
    model, other = load_model(parent), load_model(parent)
    num_windows: list[int] = []
    for watched in (model, other):
        watched.model.norm.register_forward_pre_hook(
            lambda _module, inputs: num_windows.append(inputs[0].shape[0])
        )
    measure(model, other)
    assert num_windows == [1, 1, 1, 1]
    assert not model.model.layers[0]._forward_pre_hooks, "a measured model is left as it was"


def test_a_growth_that_promises_nothing_is_measured_and_kept(parent: Checkpoint) -> None:
    _, report = grow(parent, replace(SETTINGS, width="slice", depth="random_top"), seed=0)
    assert not report.claims_exact and not report.is_exact
    assert report.max_logit_difference > 0.1
    assert math.isfinite(report.loss_after)


def test_a_broken_promise_is_refused(parent: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real strategy of live random layers that says it is exact."""
    liar = replace(DEPTHS["random_top"], is_silent=True)
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
