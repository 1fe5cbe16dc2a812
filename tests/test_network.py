"""The training loss: the stock model's numbers by either way, whatever the shape and the options.

The judge is the stock path in fp64.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.parallel import DistributedDataParallel
from training_shapes import (
    Sizes,
    gradients_of,
    random_model,
    random_windows,
    reference,
    stock_loss,
)
from transformers import LlamaForCausalLM

from training.kernels import team
from training.network import TrainingNetwork, language_model_loss, resolve_precision

CPU = torch.device("cpu")
TOLERANCE = 5e-6  # fp32, relative to the length of a gradient; the stock path reaches 1e-6
SHAPES = {
    "grouped queries": (Sizes(), 2, 33),
    "one query group": (Sizes(num_key_value_heads=1, head_dim=32), 1, 65),
    "untied": (Sizes(tie_word_embeddings=False, num_key_value_heads=4), 3, 17),
    "one window of three tokens": (Sizes(), 1, 3),
    "more rows than a chunk of logits": (Sizes(num_hidden_layers=1), 5, 130),
    "a full window": (Sizes(num_hidden_layers=1, head_dim=64, num_attention_heads=2), 1, 512),
}


class PlainNetwork(TrainingNetwork):
    """The same network where no kernel can serve."""

    def uses_kernels(self, device: torch.device) -> bool:
        return False


def assert_agree(model: LlamaForCausalLM, loss: Tensor, windows: Tensor) -> None:
    """Compare a loss and its gradients with those of the stock path."""
    exact_loss, exact = reference(model, windows)
    torch.autograd.backward(loss)
    assert loss.dtype == torch.float32 and loss.ndim == 0
    assert float(loss.detach()) == pytest.approx(exact_loss, rel=1e-6)
    # The first token attends to itself alone: what is almost 0 has no relative error.
    largest = max(gradient.norm() for gradient in exact.values())
    for name, gradient in gradients_of(model).items():
        error = (gradient - exact[name]).norm() / (exact[name].norm() + 1e-2 * largest)
        assert error < TOLERANCE, f"{name}: {error:.1e}"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("network", [TrainingNetwork, PlainNetwork])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_loss_and_gradients_are_those_of_the_stock_model(
    shape: str, network: type[TrainingNetwork], is_checkpointed: bool
) -> None:
    sizes, batch, length = SHAPES[shape]
    model, windows = random_model(sizes), random_windows(batch, length)
    trained = network(model, gradient_checkpointing=is_checkpointed)
    assert trained.uses_kernels(CPU) == (network is TrainingNetwork)
    assert_agree(model, trained(windows), windows)


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_same_bits_each_time_with_and_without_checkpointing(num_threads: int) -> None:
    """A resumed run is the run that was not interrupted, number for number."""
    model, windows = random_model(), random_windows(2, 70)
    torch.set_num_threads(num_threads)
    results = []
    try:
        for is_checkpointed in (False, True, False):
            network = TrainingNetwork(model, gradient_checkpointing=is_checkpointed)
            loss = network(windows)
            torch.autograd.backward(loss)
            results.append((float(loss.detach()), gradients_of(model)))
    finally:
        torch.set_num_threads(1)
    for loss_again, gradients in results[1:]:
        assert loss_again == results[0][0]
        for name, gradient in gradients.items():
            assert torch.equal(gradient, results[0][1][name]), name


def test_micro_batches_add_up() -> None:
    model, windows = random_model(), random_windows(4, 20)
    network = TrainingNetwork(model)
    torch.autograd.backward(network(windows))
    whole = gradients_of(model)
    for part in torch.split(windows, 1):
        torch.autograd.backward(network(part) / 4)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)


def test_two_losses_may_be_open_at_once_and_a_graph_may_be_kept() -> None:
    """Buffers are shared between layers; what a backward pass needs never is."""
    model, windows = random_model(), random_windows(2, 20)
    network = TrainingNetwork(model)
    first, second = network(windows[:1]), network(windows[1:])
    torch.autograd.backward(first)
    of_first = gradients_of(model)
    torch.autograd.backward(second)
    gradients_of(model)
    torch.autograd.backward(network(windows[:1]))
    for name, gradient in gradients_of(model).items():
        assert torch.equal(gradient, of_first[name]), name
    with pytest.raises(RuntimeError):
        torch.autograd.backward(first)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_validation_gives_the_loss_and_leaves_training_possible(
    guard: type[torch.no_grad],
) -> None:
    """A buffer made in inference mode once could not be used in training afterwards."""
    model, windows = random_model(), random_windows(2, 20)
    network = TrainingNetwork(model)
    with guard():
        loss = network(windows)
    assert not loss.requires_grad
    assert float(loss) == pytest.approx(float(stock_loss(model, windows).detach()), rel=1e-6)
    assert_agree(model, network(windows), windows)


def test_what_kernels_cannot_compute_is_computed_without() -> None:
    windows = random_windows(2, 20)
    odd = random_model(Sizes(head_dim=8))
    assert not TrainingNetwork(odd).uses_kernels(CPU)
    assert_agree(odd, TrainingNetwork(odd)(windows), windows)
    double = random_model().double()
    assert not TrainingNetwork(double).uses_kernels(CPU)
    expected = float(stock_loss(double, windows).detach())
    assert float(TrainingNetwork(double)(windows).detach()) == pytest.approx(expected, rel=1e-6)
    turned = random_model()
    weight = turned.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.t().contiguous().t()
    assert not TrainingNetwork(turned).uses_kernels(CPU)
    assert_agree(turned, TrainingNetwork(turned)(windows), windows)
    turned.config.hidden_act = "gelu"
    assert not TrainingNetwork(turned).uses_kernels(CPU)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_torch_compile_compiles_one_layer_for_all_and_changes_nothing(
    is_checkpointed: bool,
) -> None:
    """Each layer by itself took a minute for thirty of them, and torch gives up after eight."""
    model, windows = random_model(Sizes(num_hidden_layers=10)), random_windows(2, 20)
    network = PlainNetwork(model, gradient_checkpointing=is_checkpointed)
    torch.autograd.backward(network(windows))
    expected = gradients_of(model)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    network.compile(backend=counter)
    torch.autograd.backward(network(windows))
    assert counter.frame_count == 2  # a layer and a chunk of the loss
    for name, gradient in gradients_of(model).items():
        assert (gradient - expected[name]).norm() <= TOLERANCE * expected[name].norm(), name


def test_torch_compile_leaves_the_kernels_alone() -> None:
    model, windows = random_model(), random_windows(2, 20)
    network = TrainingNetwork(model)
    expected = float(network(windows).detach())
    counter = CompileCounterWithBackend("aot_eager")
    network.compile(backend=counter)
    assert float(network(windows).detach()) == expected and counter.frame_count == 0


def test_frozen_weights_get_no_gradient() -> None:
    model, windows = random_model(), random_windows(2, 20)
    frozen = (model.model.embed_tokens.weight, model.model.layers[1].mlp.up_proj.weight)
    for weight in frozen:
        weight.requires_grad_(False)
    torch.autograd.backward(TrainingNetwork(model)(windows))
    assert all(weight.grad is None for weight in frozen)
    assert model.model.layers[0].mlp.up_proj.weight.grad is not None


def test_a_nan_reaches_the_loss() -> None:
    """An exponential that returned 0 for a NaN would have trained on."""
    model, windows = random_model(), random_windows(1, 20)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[3, 5] = float("nan")
    assert TrainingNetwork(model)(windows).isnan()


def test_bf16_products_are_near_and_gradients_are_fp32() -> None:
    model, windows = random_model(), random_windows(2, 20)
    exact, _ = reference(model, windows)
    for is_checkpointed in (False, True):
        network = TrainingNetwork(model, precision="bf16", gradient_checkpointing=is_checkpointed)
        loss = network(windows)
        torch.autograd.backward(loss)
        assert float(loss.detach()) == pytest.approx(exact, rel=0.02)
        gradients = gradients_of(model).values()
        assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_processes_that_train_together_get_every_gradient(tmp_path: Path) -> None:
    """DistributedDataParallel sends a gradient when autograd has it; each must come, once."""
    model, windows = random_model(), random_windows(2, 20)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        network = DistributedDataParallel(TrainingNetwork(model))
        with network.no_sync():
            torch.autograd.backward(network(windows[:1]))
        gradients_of(model)
        assert_agree(model, network(windows), windows)
    finally:
        torch.distributed.destroy_process_group()


def test_the_stock_model_stays_as_it_is() -> None:
    """Names, tying and saving are the stock model's: nothing is added to its state."""
    model = random_model()
    names = set(model.state_dict())
    network = TrainingNetwork(model, gradient_checkpointing=True)
    network(random_windows(1, 8))
    assert set(model.state_dict()) == names
    assert {f"model.{name}" for name in names} == set(network.state_dict())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_without_openmp_and_with_two_threads_the_kernels_stand_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(team, "_openmp", lambda: None)
    model, windows = random_model(), random_windows(1, 9)
    assert TrainingNetwork(model).uses_kernels(CPU)
    torch.set_num_threads(2)
    try:
        assert not TrainingNetwork(model).uses_kernels(CPU)
        assert_agree(model, language_model_loss(model, windows), windows)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("setting", "device", "precision"),
    [("auto", "cpu", "fp32"), ("auto", "cuda", "bf16"), ("bf16", "cpu", "bf16")],
)
def test_precision_is_chosen_by_the_device(setting: str, device: str, precision: str) -> None:
    assert resolve_precision(setting, torch.device(device)) == precision
