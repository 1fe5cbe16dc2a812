"""What training needs to go on beside weights: the optimizer's moments and every random state.

Nothing of a stage's steps draws from a global random generator today; their states are kept all the
same, so that a resumed run stays exact on the day that something does. safetensors and JSON only.
"""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from stentor.errors import RunError
from training.muon import muon_matrices

OPTIMIZER_FILE = "optimizer.safetensors"
RANDOM_FILE = "random.safetensors"
# What is kept of a parameter: by AdamW its step number and the means of gradient and square, by
# Muon of a matrix the mean of the gradient.
MOMENTS = {"adamw": ("step", "exp_avg", "exp_avg_sq"), "muon": ("momentum_buffer",)}


def save_optimizer(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer) -> None:
    """Write the moments under the names of the parameters."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }
    save_file(tensors, folder / OPTIMIZER_FILE)


def restore_optimizer(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer
) -> None:
    """Fill the optimizer with the moments stored in a checkpoint.

    Raises:
        RunError: the file is missing or damaged, or is of a model of another shape or of another
            optimizer.
    """
    path = folder / OPTIMIZER_FILE
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is missing or damaged ({error!r}).") from error
    of_muon = muon_matrices(optimizer)
    for name, parameter in model.named_parameters():
        kind = "muon" if id(parameter) in of_muon else "adamw"
        moments = {key: tensors.get(f"{name}.{key}") for key in MOMENTS[kind]}
        mean = moments[MOMENTS[kind][-1]]
        if mean is None and any(other.startswith(f"{name}.") for other in tensors):
            raise RunError(
                f"{path} holds no moments of {kind} for {name}: it was written by another "
                "optimizer. Set optimizer to that one, or carry_optimizer to false."
            )
        if mean is None or mean.shape != parameter.shape:
            raise RunError(
                f"{path} holds moments of {name} of shape {_shape(mean)} and the model has "
                f"{_shape(parameter)}: they belong to another model."
            )
        # The fused optimizer keeps the step number beside the moments, on the device.
        optimizer.state[parameter] = {
            key: value.to(parameter.device) for key, value in moments.items() if value is not None
        }


def _shape(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else str(tuple(tensor.shape))


def seed_generators(seed: int) -> None:
    """Start every global generator from `seed`, so that no stage depends on the one before."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    torch.manual_seed(seed)  # the CUDA generators as well


def save_random_states(folder: Path, device: torch.device) -> None:
    """Write the states of Python's, numpy's, torch's and, on a GPU, its CUDA generator."""
    version, numbers, gauss = random.getstate()
    algorithm, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    assert algorithm == "MT19937"
    tensors = {
        "python": torch.tensor(numbers, dtype=torch.int64),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    scalars = {
        "python": json.dumps([version, gauss]),
        "numpy": json.dumps([position, has_gauss, cached_gauss]),
    }
    save_file(tensors, folder / RANDOM_FILE, metadata=scalars)


def restore_random_states(folder: Path, device: torch.device) -> None:
    """Set every generator to what `save_random_states` wrote; an older checkpoint has none.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / RANDOM_FILE
    if not path.is_file():
        return
    try:
        with safe_open(path, framework="pt") as stored:
            scalars = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        version, gauss = json.loads(scalars["python"])
        random.setstate((version, tuple(tensors["python"].tolist()), gauss))
        keys = tensors["numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, *json.loads(scalars["numpy"])))
        torch.set_rng_state(tensors["torch"])
        if device.type == "cuda" and "cuda" in tensors:
            torch.cuda.set_rng_state(tensors["cuda"], device)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error!r}).") from error
