"""New tensors: names, a new model, and rows for new tokens."""

from dataclasses import replace

import torch
from growth_shapes import SMALL, logits_of, random_weights, some_tokens

from training.expansion import expand, grown_shape
from training.fresh_weights import EMBEDDING, FINAL_NORM, OUTPUT, layer_of, normal


def test_a_tensor_names_its_layer() -> None:
    assert layer_of("model.layers.12.mlp.up_proj.weight") == (12, "mlp.up_proj.weight")
    assert layer_of(FINAL_NORM) == (None, FINAL_NORM)


def test_a_twin_in_double_has_the_same_numbers() -> None:
    single = normal((3, 4), torch.Generator().manual_seed(1), torch.float32)
    double = normal((3, 4), torch.Generator().manual_seed(1), torch.float64)
    assert torch.equal(single.double(), double)


def test_new_tokens_take_little_and_old_ones_keep_their_logits() -> None:
    """A new row is near the mean of the old ones, so that no new token starts as the likeliest.

    A row near zero has the logit 0, which was above every trained logit of some models.
    """
    source = replace(SMALL, hidden_size=32, num_heads=4, num_key_value_heads=4)
    before = random_weights(source)
    before[EMBEDDING][:, 0] -= 3.0  # every logit is far below zero, as in some trained models
    before[FINAL_NORM][1:] *= 0.2
    tokens = some_tokens(source)
    target = grown_shape(source, 32, 24, 2, 4, vocab_size=51)
    after, shape = expand(
        before, source, target, width="zero_pad", depth="identity_interleave", seed=1
    )
    assert torch.equal(after[EMBEDDING][:48], before[EMBEDDING])
    new_rows = after[EMBEDDING][48:].tolist()
    assert all(new_rows.count(row) == 1 for row in new_rows), "told apart"
    taken = logits_of(after, shape, tokens).softmax(dim=-1)[..., 48:].sum(dim=-1)
    assert float(taken.max()) < 3 / 48 * 1.1


def test_an_untied_model_grows_both_matrices() -> None:
    source = replace(SMALL, is_tied=False)
    before = random_weights(source)
    target = grown_shape(source, 32, 24, 2, 4, vocab_size=50)
    after, _ = expand(before, source, target, width="clone", depth="identity_back", seed=1)
    assert after[EMBEDDING].shape == after[OUTPUT].shape == (50, 32)
    assert not torch.equal(after[EMBEDDING], after[OUTPUT])
