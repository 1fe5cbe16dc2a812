"""Graphs: inputs go in, outputs come out at fixed places; a failing capture is told once."""

from collections.abc import Callable
from threading import Thread

import pytest
import torch
from torch_models import on_gpu, record

from stentor.engine.torch_graphs import CudaCapture, Graphs, Outputs, release_memory


def double(values: torch.Tensor) -> Outputs:
    return (values * 2.0,)


def test_a_recording_is_made_once_and_replayed_on_new_inputs() -> None:
    num_records = 0

    def counted(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        nonlocal num_records
        num_records += 1
        return record(function)

    graphs = Graphs(counted)
    for value in (1.0, 5.0, -3.0):
        (result,) = graphs.run("double", double, torch.full((2,), value))
        assert result.tolist() == [2.0 * value] * 2
    graphs.run("another", double, torch.ones(3))
    assert num_records == 2
    graphs.clear()
    graphs.run("double", double, torch.ones(2))
    assert num_records == 3


def test_outputs_hold_until_the_same_key_runs_again() -> None:
    graphs = Graphs(record)
    (first,) = graphs.run("a", double, torch.ones(1))
    (other,) = graphs.run("b", double, torch.full((1,), 7.0))
    assert (first.item(), other.item()) == (2.0, 14.0)
    graphs.run("a", double, torch.zeros(1))
    assert (first.item(), other.item()) == (0.0, 14.0)


def test_a_failing_capture_is_told_in_one_line_and_never_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    num_tries = 0

    def failing(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        nonlocal num_tries
        num_tries += 1
        if num_tries < 2:
            return record(function)
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")

    graphs = Graphs(failing)
    for key in ("fine", "refused", "fine", "refused", "third"):
        (result,) = graphs.run(key, double, torch.ones(1))
        assert result.item() == 2.0
    assert num_tries == 2 and not graphs.is_capturing
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "operation not permitted when stream is capturing" in lines[0]


def test_an_error_without_words_is_told_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    def failing(_: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        raise RuntimeError

    Graphs(failing).run("key", double, torch.ones(1))
    assert "RuntimeError" in capsys.readouterr().err


def test_without_a_capture_functions_run_plainly() -> None:
    graphs = Graphs(None)
    assert not graphs.is_capturing
    assert graphs.run("key", double, torch.ones(1))[0].item() == 2.0


def test_memory_can_be_released_where_cuda_was_never_used() -> None:
    release_memory()


@on_gpu
def test_a_cuda_graph_replays_on_new_inputs_from_any_thread() -> None:
    graphs = Graphs(CudaCapture())
    graphs.run("double", double, torch.ones(4, device="cuda"))
    assert graphs.is_capturing, "a plain product can be captured"
    results: list[list[float]] = []

    def work() -> None:
        for value in (3.0, 4.0):
            (result,) = graphs.run("double", double, torch.full((4,), value, device="cuda"))
            results.append(result.tolist())

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert results == [[6.0] * 4, [8.0] * 4]


@on_gpu
def test_a_function_that_waits_for_the_device_is_run_plainly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After the refusal the stream is the caller's again and the device still works."""

    def waiting(values: torch.Tensor) -> Outputs:
        return (values * values.sum().item(),)

    graphs = Graphs(CudaCapture())
    stream = torch.cuda.current_stream()
    for value in (1.0, 2.0):
        (result,) = graphs.run("waiting", waiting, torch.full((2,), value, device="cuda"))
        assert result.tolist() == [2.0 * value * value] * 2
    assert torch.cuda.current_stream() == stream
    assert not graphs.is_capturing
    assert len(capsys.readouterr().err.splitlines()) == 1
    torch.cuda.synchronize()
