"""What only a GPU can show: captured graphs, bf16, and rows that do not influence each other.

    python -m pytest -m gpu -rs

Skipped, never faked, where there is no CUDA device.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch_models import (
    GREEDY,
    SHAPES,
    Request,
    generate,
    new_requests,
    on_gpu,
    open_decoder,
    random_ids,
    score,
    write_llama,
)

from stentor.engine.torch_decoder import TorchDecoder
from stentor.engine.torch_graphs import Outputs
from stentor.engine.torch_llama import PASS_ROWS
from stentor.loading import open_checkpoint_folder


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp(request.param)
    write_llama(path, request.param)
    return path


def open_on_gpu(folder: Path, num_slots: int = 40, *, is_captured: bool = True) -> TorchDecoder:
    def refuse(_: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        raise RuntimeError("not in this test")

    decoder = open_decoder(
        folder,
        device=torch.device("cuda"),
        num_slots=num_slots,
        capture=None if is_captured else refuse,
    )
    assert decoder.is_captured == is_captured, "see the line on the error stream"
    return decoder


@on_gpu
def test_graphs_answer_like_plain_launches(folder: Path) -> None:
    rooms = [new_requests(folder, 20), new_requests(folder, 20)]
    for room, is_captured in zip(rooms, (True, False), strict=True):
        generate(open_on_gpu(folder, is_captured=is_captured), room, 16)
    assert [one.answers for one in rooms[0]] == [one.answers for one in rooms[1]]


@on_gpu
def test_a_request_is_the_same_bit_for_bit_alone_and_in_a_full_room(folder: Path) -> None:
    """Other batch sizes, other slots, other places in a pass, other chunks of the prompt."""
    decoder = open_on_gpu(folder, num_slots=PASS_ROWS)
    room = new_requests(folder, PASS_ROWS)
    generate(decoder, room, 24)
    for crowded in room:
        alone = new_requests(folder, PASS_ROWS)[crowded.slot]
        alone.slot = PASS_ROWS - 1 - alone.slot
        alone.chunk = 33
        generate(decoder, [alone], 24)
        assert alone.answers == crowded.answers, f"request {crowded.slot}"


@on_gpu
def test_bf16_is_near_fp32(folder: Path) -> None:
    """The mean log-probability of a text moves by less than 0.01 nats."""
    ids = random_ids(open_checkpoint_folder(folder), 200, seed=4)
    means = []
    for decoder in (open_decoder(folder), open_on_gpu(folder)):
        answers = score(decoder, ids)
        means.append(sum(answer.log_probability for answer in answers) / len(answers))
    assert means[1] == pytest.approx(means[0], abs=0.01)


@on_gpu
def test_256_requests_at_once(folder: Path) -> None:
    decoder = open_on_gpu(folder, num_slots=256)
    room = new_requests(folder, 256)
    generate(decoder, room, 8)
    alone = new_requests(folder, 256)[255]
    generate(decoder, [alone], 8)
    assert alone.answers == room[255].answers


@on_gpu
def test_two_models_load_and_decode_in_threads_of_their_own(folder: Path) -> None:
    """One captures while the other decodes; each is made in its thread, as an engine may."""
    prompt = random_ids(open_checkpoint_folder(folder), 30, seed=1)
    expected = Request(0, prompt, GREEDY)
    generate(open_on_gpu(folder), [expected], 50)
    received: list[list[int]] = []

    def work() -> None:
        for _ in range(3):
            decoder = open_on_gpu(folder, num_slots=16)
            request = Request(0, prompt, GREEDY)
            generate(decoder, [request], 50)
            decoder.close()
            received.append(request.ids)

    threads = [Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert received == [expected.ids] * 6


@on_gpu
def test_a_decoder_made_in_one_thread_steps_in_another(folder: Path) -> None:
    decoder = open_on_gpu(folder)
    requests = [new_requests(folder, 1)[0], new_requests(folder, 1)[0]]
    generate(decoder, requests[:1], 10)
    thread = Thread(target=generate, args=(decoder, requests[1:], 10))
    thread.start()
    thread.join()
    assert requests[0].answers == requests[1].answers


@on_gpu
def test_a_closed_decoder_gives_its_memory_back(folder: Path) -> None:
    sizes = []
    for _ in range(4):
        decoder = open_on_gpu(folder)
        generate(decoder, new_requests(folder, 3), 3)
        decoder.close()
        sizes.append(torch.cuda.memory_allocated())
    assert sizes[-1] <= sizes[0], "the libraries' own workspaces stay"
