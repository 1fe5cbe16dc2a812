"""Reads safetensors files with numpy alone: an 8-byte length, a JSON header, raw numbers.

A bench environment need not have torch. The files were checked by loading.py before.
"""

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def read_tensors(files: Sequence[str]) -> Iterator[tuple[str, Floats]]:
    """Yield every tensor of some safetensors files in fp32."""
    for file in files:
        with Path(file).open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
            start = opened.tell()
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                first, last = entry["data_offsets"]
                opened.seek(start + first)
                values = _numbers(opened.read(last - first), entry["dtype"])
                yield name, values.reshape(entry["shape"])


def _numbers(raw: bytes, dtype: str) -> Floats:
    """Return stored numbers as fp32; BF16 is the upper half of an fp32."""
    if dtype == "BF16":
        upper = np.frombuffer(raw, dtype="<u2").astype(np.uint32)
        return (upper << np.uint32(16)).view(np.float32)
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
    return np.frombuffer(raw, dtype=kinds[dtype]).astype(np.float32)
