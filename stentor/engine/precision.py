"""Which arithmetic a model computes in, by name, and what "auto" means on this machine.

Knows no decoder: see decoders.py.
"""

import torch

from stentor.errors import OptionError
from stentor.knobs import choose

PRECISIONS = {
    "auto": "bf16 on a CUDA device that has it, else int8",
    "int8": "CPU, weights of 8 bits: the fastest there",
    "fp32": "CPU, the checkpoint's own weights in 32 bits",
    "bf16": "CUDA device, 16 bits",
}


def resolve(precision: str) -> str:
    """Return the name in PRECISIONS that is used here: never "auto".

    Raises:
        OptionError: no such precision, or it needs a CUDA device that is not there.
    """
    choose(PRECISIONS, precision, "precision")
    # Older devices only emulate bf16, slower than a processor computes int8.
    is_able = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16" if is_able else "int8"
    if precision == "bf16" and not is_able:
        raise OptionError(
            "The precision bf16 needs a CUDA device that computes in it (compute capability 8.0 or "
            "newer) and there is none. Choose auto, int8 or fp32."
        )
    return precision
