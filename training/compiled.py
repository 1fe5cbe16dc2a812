"""torch.compile where it can work, and a reason where it cannot."""

import torch

from training.network import TrainingNetwork


def compile_network(network: TrainingNetwork, device: torch.device) -> str | None:
    """Compile the network, or leave it as it is and return why.

    A tiny function is compiled first: a missing C++ compiler or Triton shows there, within seconds,
    and not in the first step of a long stage.
    """
    if network.uses_kernels(device):
        return "torch_compile is on and unused: on this processor fused kernels train in fp32."
    try:
        torch.compile(_probe)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - each backend and toolchain raises its own kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return (
            f"torch_compile is on, and this machine cannot compile ({reason:.200}); the plain "
            "network is trained instead. On a CPU it needs a C++ compiler, on a GPU Triton."
        )
    network.compile()
    return None


def _probe(values: torch.Tensor) -> torch.Tensor:
    return torch.sin(values) * 2
