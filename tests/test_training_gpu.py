"""What only a GPU can show of training: bf16, compiled layers, and the memory that was predicted.

    python -m pytest -m gpu -rs

Skipped, never faked, where there is no CUDA device.
"""

import pytest
import torch
from torch_models import on_gpu
from training_shapes import random_model, random_windows, reference
from transformers import LlamaForCausalLM

from stentor.loading import LlamaShape
from training.checkpoint import llama_config
from training.flops import measure_matmul_ceiling
from training.loop import train_steps
from training.memory import peak_memory, predict_memory, reset_peak_memory
from training.network import TrainingNetwork
from training.optim import make_optimizer
from training.settings import PretrainSettings
from training.workers import open_workers

SHAPE = LlamaShape(32_768, 512, 2048, 8, 8, 8, 64, 512, 1e-5, 10_000.0, True)


@on_gpu
def test_a_ceiling_is_measured() -> None:
    assert measure_matmul_ceiling(torch.device("cuda"), "bf16") > 1e12


@on_gpu
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_bf16_gives_the_loss_and_gradients_of_fp64(
    is_compiled: bool, gradient_checkpointing: bool
) -> None:
    model, windows = random_model(), random_windows(2, 33)
    loss, gradients = reference(model, windows)
    torch.nn.Module.to(model, "cuda")
    network = TrainingNetwork(
        model, precision="bf16", gradient_checkpointing=gradient_checkpointing
    )
    if is_compiled:
        network.compile()
    found = network(windows.cuda())
    torch.autograd.backward(found)
    assert float(found) == pytest.approx(loss, rel=0.02)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = gradients[name].flatten()
        given = parameter.grad.double().cpu().flatten()
        assert torch.cosine_similarity(expected, given, dim=0) > 0.95, name


@on_gpu
def test_the_loop_learns_within_the_predicted_memory() -> None:
    settings = PretrainSettings(num_steps=4, batch_size=16, micro_batch_size=8, learning_rate=1e-3)
    workers = open_workers()
    predicted = predict_memory(SHAPE, settings, workers.device).total
    model = LlamaForCausalLM(llama_config(SHAPE, 0))
    network = workers.prepare(TrainingNetwork(model, precision="bf16"))
    optimizer = make_optimizer(model, settings)
    windows = random_windows(16, 512, SHAPE.vocab_size)
    reset_peak_memory(workers.device)
    steps = train_steps(network, optimizer, lambda _step: windows, settings, workers)
    losses = [report.loss for report in steps]
    assert losses[-1] < losses[0]
    assert peak_memory(workers.device) == pytest.approx(predicted, rel=0.15)
