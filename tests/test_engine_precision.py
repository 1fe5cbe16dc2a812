"""Precisions by name: what auto means here, and what cannot be."""

import pytest
import torch

from stentor.engine.precision import PRECISIONS, resolve
from stentor.errors import OptionError


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_precision_has_a_line_of_help() -> None:
    assert list(PRECISIONS) == ["auto", "int8", "fp32", "bf16"]
    assert all(PRECISIONS.values())


@pytest.mark.usefixtures("no_cuda")
def test_a_machine_without_a_gpu_computes_in_int8() -> None:
    assert resolve("auto") == "int8"
    assert resolve("int8") == "int8"
    assert resolve("fp32") == "fp32"


def test_a_machine_with_a_gpu_computes_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert [resolve(name) for name in PRECISIONS] == ["bf16", "int8", "fp32", "bf16"]


def test_an_old_gpu_that_only_emulates_bf16_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert resolve("auto") == "int8"
    with pytest.raises(OptionError, match=r"compute capability 8\.0"):
        resolve("bf16")


@pytest.mark.usefixtures("no_cuda")
def test_bf16_without_a_gpu_is_refused() -> None:
    with pytest.raises(OptionError, match="needs a CUDA device"):
        resolve("bf16")


def test_an_unknown_precision_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'int8'"):
        resolve("int4")
