"""Getting wider: what each strategy writes where, and the facts about gradients that follow."""

from dataclasses import replace

import pytest
import torch
from growth_shapes import SMALL, random_weights, some_tokens
from transformers import LlamaForCausalLM

from stentor.loading import LlamaShape, tensor_shapes_of
from training.checkpoint import build_model
from training.expansion import Weights, expand, grown_shape
from training.fresh_weights import EMBEDDING, FINAL_NORM, OUTPUT, WRITERS, fresh_weights
from training.optim import make_optimizer
from training.settings import PretrainSettings
from training.widths import SYMMETRY_BREAKS, WIDTHS, shares_of

WIDER = grown_shape(SMALL, 32, 48, 2, 4)


def widened(
    width: str, source: LlamaShape = SMALL, target: LlamaShape = WIDER, symmetry_break: str = "none"
) -> tuple[Weights, Weights, LlamaShape]:
    weights = random_weights(source)
    after, shape = expand(
        weights,
        source,
        target,
        width=width,
        depth="identity_interleave",
        seed=1,
        symmetry_break=symmetry_break,
    )
    return weights, after, shape


def gradients(weights: Weights, shape: LlamaShape) -> tuple[LlamaForCausalLM, Weights]:
    model = build_model(shape, weights, 0)
    tokens = some_tokens(SMALL)
    torch.autograd.backward(model(input_ids=tokens, labels=tokens).loss)
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    return model, {name: gradient for name, gradient in named.items() if gradient is not None}


def test_slice_copies_the_overlap_and_is_random_elsewhere() -> None:
    before, after, shape = widened("slice")
    assert shape.rms_norm_eps == SMALL.rms_norm_eps
    for name, old in before.items():
        new = after[name]
        overlap = tuple(slice(0, length) for length in old.shape)
        assert torch.equal(new[overlap], old), name
        if old.dim() == 1:
            assert bool((new[old.shape[0] :] == 1).all()), name
    assert 0.015 < float(after[EMBEDDING][:, 16:].std()) < 0.025


def test_slice_rescaled_is_slice_with_smaller_gains() -> None:
    _, plain, _ = widened("slice")
    _, rescaled, shape = widened("slice_rescaled")
    assert shape.rms_norm_eps == SMALL.rms_norm_eps
    for name, tensor in plain.items():
        factor = 0.5**0.5 if tensor.dim() == 1 else 1.0
        torch.testing.assert_close(rescaled[name], tensor * factor, msg=name)


def test_zero_pad_writes_nothing_new_into_the_stream() -> None:
    before, after, shape = widened("zero_pad")
    assert shape.rms_norm_eps == SMALL.rms_norm_eps / 2
    for name, new in after.items():
        old = before[name]
        if old.dim() == 1:
            torch.testing.assert_close(new[:16], old * 0.5**0.5)
            torch.testing.assert_close(new[16:], (old.mean() * 0.5**0.5).expand(16))
            continue
        rest = new.clone()
        rest[: old.shape[0], : old.shape[1]] = 0
        is_silent = name.endswith(WRITERS) or name == EMBEDDING
        assert bool((rest == 0).all()) == is_silent, name
        if not is_silent:
            spread = rest[rest != 0].square().mean() / old.square().mean()
            assert 0.7 < float(spread) < 1.4, name


def test_scratch_keeps_nothing() -> None:
    """N(0, 0.02), gains of 1, and writers smaller by sqrt(2 L), whatever the depth strategy."""
    target = grown_shape(SMALL, 64, 96, 8, 8)
    before = random_weights(SMALL)
    for depth in ("identity_interleave", "random_top"):
        after, shape = expand(before, SMALL, target, width="scratch", depth=depth, seed=4)
        fresh = fresh_weights(target, torch.Generator().manual_seed(4), torch.float32)
        assert all(torch.equal(after[name], fresh[name]) for name in tensor_shapes_of(target))
        assert shape == target
    for name, tensor in fresh.items():
        expected = 0.02 / 4 if name.endswith(WRITERS) else 0.02
        if tensor.dim() == 1:
            assert bool((tensor == 1).all()), name
        else:
            assert 0.9 * expected < float(tensor.std()) < 1.1 * expected, name


def test_clone_repeats_rows_and_halves_columns() -> None:
    """By hand: fan-in shared out, and the final gain halved for the sake of the tied head."""
    before, after, shape = widened("clone")
    assert shape.rms_norm_eps == SMALL.rms_norm_eps
    for name, old in before.items():
        if name == EMBEDDING:
            expected = torch.cat([old, old], dim=1)
        elif name == FINAL_NORM:
            expected = torch.cat([old, old]) / 2
        elif old.dim() == 1:
            expected = torch.cat([old, old])
        else:
            half = torch.cat([old, old], dim=1) / 2
            expected = torch.cat([half, half])
        assert torch.equal(after[name], expected), name


def test_clone_of_an_untied_model_leaves_the_final_gain() -> None:
    source = replace(SMALL, is_tied=False)
    before, after, _ = widened("clone", source, replace(WIDER, is_tied=False))
    assert torch.equal(after[FINAL_NORM], before[FINAL_NORM].repeat(2))
    assert torch.equal(after[OUTPUT], before[OUTPUT].repeat(1, 2) / 2)


def test_clone_noise_is_ten_decibels_below_and_cancels() -> None:
    target = grown_shape(SMALL, 48, 48, 2, 6)  # three copies of the stream, two of the units
    _, plain, _ = widened("clone", target=target)
    _, noisy, _ = widened("clone", target=target, symmetry_break="noise")
    for name, tensor in plain.items():
        noise = noisy[name] - tensor
        if tensor.dim() == 1 or name == EMBEDDING:
            assert bool((noise == 0).all()), name
            continue
        ratio = float(tensor.square().mean() / noise.square().mean())
        assert 8 < ratio < 12.5, f"{name}: {ratio}"
        copies = tensor.shape[1] // random_weights(SMALL)[name].shape[1]
        total = noise.reshape(noise.shape[0], copies, -1).sum(dim=1)
        assert float(total.abs().max()) < 1e-6, name
        rows = random_weights(SMALL)[name].shape[0]
        assert not torch.equal(noise[:rows], noise[rows : 2 * rows]), f"{name}: noise of all rows"


def test_shares_add_up_and_uneven_ones_differ() -> None:
    assert shares_of(2, "uneven") == pytest.approx([0.35, 0.65])
    assert shares_of(4, "noise") == [0.25] * 4
    for copies in range(1, 7):
        for symmetry_break in SYMMETRY_BREAKS:
            shares = shares_of(copies, symmetry_break)
            assert sum(shares) == pytest.approx(1) and min(shares) > 0
            assert len(set(shares)) == (copies if symmetry_break == "uneven" else 1)


def test_only_a_clone_changes_the_learning_rate() -> None:
    factors = {name: entry.learning_rate_factor(SMALL, WIDER) for name, entry in WIDTHS.items()}
    assert factors == {
        "zero_pad": 1,
        "clone": 0.5,
        "slice_rescaled": 1,
        "slice": 1,
        "scratch": 1,
    }


def row_difference(gradient: torch.Tensor) -> float:
    """Return |top half - bottom half| / |all|."""
    top, bottom = gradient.chunk(2)
    return float((top - bottom).norm() / gradient.norm())


@pytest.mark.parametrize("symmetry_break", SYMMETRY_BREAKS)
def test_a_plain_clone_is_symmetric_and_a_break_is_not(symmetry_break: str) -> None:
    """Why `none` is warned of: the halves of every matrix get the same gradient for ever."""
    _, after, shape = widened("clone", symmetry_break=symmetry_break)
    _, found = gradients(after, shape)
    for name, gradient in found.items():
        if name in (EMBEDDING, FINAL_NORM):
            continue
        difference = row_difference(gradient)
        if symmetry_break == "none":
            assert difference < 1e-5, f"{name}: {difference}"
        elif gradient.dim() == 2 and not name.endswith(WRITERS):
            assert difference > 0.05, f"{name}: {difference}"


def test_the_gradient_of_a_clone_is_shared_out_evenly() -> None:
    """A block gets half the source's gradient, the final gain all: the clip keeps its meaning."""
    before, after, shape = widened("clone")
    _, small = gradients(before, SMALL)
    _, large = gradients(after, shape)
    for name, gradient in small.items():
        part = large[name][tuple(slice(0, length) for length in gradient.shape)]
        factor = 1.0 if name == FINAL_NORM else 0.5
        torch.testing.assert_close(part, gradient * factor, rtol=1e-3, atol=1e-6, msg=name)


def test_zero_pad_reaches_its_new_parts_through_the_writers() -> None:
    """At step 0 the writers' new columns and the embedding move; what feeds them follows."""
    _, after, shape = widened("zero_pad")
    _, found = gradients(after, shape)
    for name, gradient in found.items():
        half = gradient.shape[-1] // 2
        new = gradient[..., half:]
        if name.endswith(WRITERS) or name == EMBEDDING:
            assert float(new.norm()) > 1e-4, f"{name} would stay silent"
    queries = found["model.layers.0.self_attn.q_proj.weight"]
    assert bool((queries[16:] == 0).all()), "nobody reads the new heads yet"


def test_muon_moves_what_reads_the_new_units_of_zero_pad_as_far_as_the_rest() -> None:
    """Units of N(0, 0.02) beside trained ones were dead for 35 M tokens of the demo pair.

    Their columns of the down projection had grown to a twentieth of the old ones.
    """
    _, after, shape = widened("zero_pad")
    model = build_model(shape, after, 0)
    optimizer = make_optimizer(model, PretrainSettings(optimizer="muon", learning_rate=0.003))
    tokens = some_tokens(SMALL)
    for _ in range(3):
        torch.autograd.backward(model(input_ids=tokens, labels=tokens).loss)
        optimizer.step()
        optimizer.zero_grad()
    for layer in range(shape.num_layers):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        moved = (model.get_parameter(name).detach() - after[name]).square()
        old, new = (float(part.mean().sqrt()) for part in (moved[:, :24], moved[:, 24:]))
        assert new > 0.5 * old, f"{name}: {new:.2g} beside {old:.2g}"
