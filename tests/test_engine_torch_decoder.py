"""The torch decoder: the same answers however requests are mixed, captured or not."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_models import (
    GREEDY,
    SETTINGS,
    SHAPES,
    NoHostTensors,
    Request,
    generate,
    new_requests,
    open_decoder,
    random_ids,
    record,
    write_llama,
)
from transformers import LlamaForCausalLM

from stentor.engine import torch_decoder
from stentor.engine.decoder import NOT_FINITE, Answer, Draw, Measure, Piece
from stentor.engine.sampling import SamplingSettings
from stentor.engine.torch_graphs import Outputs
from stentor.engine.torch_llama import PASS_ROWS
from stentor.errors import ModelError
from stentor.loading import open_checkpoint_folder


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp(request.param)
    write_llama(path, request.param)
    return path


@pytest.fixture(scope="module")
def tied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("one-shape")
    write_llama(path, "tied")
    return path


def test_log_probabilities_agree_with_transformers_however_the_tokens_arrive(folder: Path) -> None:
    ids = random_ids(open_checkpoint_folder(folder), 151, seed=3)
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    decoder = open_decoder(folder)
    for sizes in ([150], [64, 86], [7, 1, 1, 30, 111]):
        answers: list[Answer] = []
        start = 0
        for size in sizes:
            targets = ids[start + 1 : start + size + 1]
            piece = Piece(5, start, ids[start : start + size], Measure(targets, 3))
            answers += decoder.step([piece])[0]
            start += size
        assert [answer.token_id for answer in answers] == list(ids[1:])
        for row, answer in zip(expected, answers, strict=True):
            chosen = row[answer.token_id].item()
            assert answer.log_probability == pytest.approx(chosen, abs=1e-4)
            assert answer.rank == 1 + int((row > chosen).sum())
            likely = row.topk(3)
            assert [other.token_id for other in answer.alternatives] == likely.indices.tolist()
            for other, value in zip(answer.alternatives, likely.values.tolist(), strict=True):
                assert other.log_probability == pytest.approx(value, abs=1e-4)


def test_greedy_tokens_are_those_of_transformers(folder: Path) -> None:
    prompt = random_ids(open_checkpoint_folder(folder), 100, seed=8)
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(40):  # across the first span, which ends at 128
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    request = Request(0, prompt, GREEDY)
    generate(open_decoder(folder), [request], 40)
    assert request.ids == ids


def test_a_request_is_the_same_alone_and_in_a_full_room(folder: Path) -> None:
    decoder = open_decoder(folder, num_slots=30)
    room = new_requests(folder, 30)
    generate(decoder, room, 6)
    for crowded in room[::7]:
        (alone,) = [one for one in new_requests(folder, 30) if one.slot == crowded.slot]
        alone.slot = 29 - alone.slot
        generate(decoder, [alone], 6)
        assert alone.ids == crowded.ids
        for one, other in zip(alone.answers, crowded.answers, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-6)


def test_more_requests_than_rows_of_a_pass(tied_folder: Path) -> None:
    """Several passes and batches of one step share a graph; none may overwrite another's answer."""
    count = 3 * PASS_ROWS + 9
    decoder = open_decoder(tied_folder, num_slots=count, capture=record)
    room = new_requests(tied_folder, count)
    generate(decoder, room, 2)
    for slot in (0, PASS_ROWS, 2 * PASS_ROWS + 1, count - 1):
        alone = new_requests(tied_folder, count)[slot]
        generate(decoder, [alone], 2)
        assert alone.ids == room[slot].ids


def test_a_step_mixes_every_kind_of_piece(tied_folder: Path) -> None:
    """Answers come in the order of the pieces, alternatives for those who want them alone."""
    decoder = open_decoder(tied_folder)
    ids = random_ids(open_checkpoint_folder(tied_folder), 90, seed=2)
    pieces = [
        Piece(3, 0, ids[:80], Measure(ids[1:81], num_alternatives=1)),
        Piece(1, 0, ids[:5]),
        Piece(0, 0, ids[:7], Draw(GREEDY, 0.0)),
        Piece(2, 0, ids[:7], Draw(GREEDY, 0.0, num_alternatives=10)),
        Piece(4, 0, ids[:3], Measure(ids[1:4])),
    ]
    measured, nothing, drawn, drawn_with, plain = decoder.step(pieces)
    assert nothing == ()
    assert [answer.token_id for answer in measured] == list(ids[1:81])
    assert {len(answer.alternatives) for answer in measured} == {1}
    assert [len(answer.alternatives) for answer in (*drawn, *drawn_with)] == [0, 10]
    assert drawn_with[0].alternatives[0].token_id == drawn[0].token_id == drawn_with[0].token_id
    assert drawn_with[0].alternatives[0].log_probability == drawn[0].log_probability
    assert [answer._replace(alternatives=()) for answer in measured[:3]] == list(plain)
    for piece, answers in zip(pieces, (measured, (), drawn, drawn_with, plain), strict=True):
        assert decoder.step([piece]) == [answers]


def test_position_0_empties_a_slot(tied_folder: Path) -> None:
    """Neither the keys nor the repetition penalty remember who had the slot before."""
    decoder = open_decoder(tied_folder)
    settings = SamplingSettings(temperature=1.0, repetition_penalty=2.0, seed=4)
    prompt = random_ids(open_checkpoint_folder(tied_folder), 4, seed=1)
    first, later = Request(0, prompt, settings), Request(0, prompt, settings)
    generate(decoder, [first], 20)
    decoder.step([Piece(0, 0, random_ids(open_checkpoint_folder(tied_folder), 200, seed=5))])
    generate(decoder, [later], 20)
    assert later.answers == first.answers


def test_damaged_weights_answer_not_finite(tied_folder: Path, tmp_path: Path) -> None:
    for file in tied_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    piece = Piece(0, 0, (1, 2), Draw(SETTINGS[1], 0.9, num_alternatives=2))
    (answers,) = open_decoder(tmp_path).step([piece])
    assert [answer.token_id for answer in answers] == [NOT_FINITE]


def test_captured_steps_answer_like_plain_ones(folder: Path) -> None:
    """The graphs are made before the first request, one for each span and size of batch."""
    num_records = 0

    def counted(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        nonlocal num_records
        num_records += 1
        return record(function)

    captured = open_decoder(folder, num_slots=9, capture=counted)
    assert num_records == len([128, 256]) + len([1, 2, 4, 8, 16])
    rooms = [new_requests(folder, 9), new_requests(folder, 9)]
    for decoder, room in zip((captured, open_decoder(folder, num_slots=9)), rooms, strict=True):
        generate(decoder, room, 4)
    assert [one.answers for one in rooms[0]] == [one.answers for one in rooms[1]]
    assert num_records == 7, "none later"


def test_a_failing_capture_costs_speed_alone(
    tied_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        raise RuntimeError("CUDA error: operation not permitted")

    rooms = [new_requests(tied_folder, 6), new_requests(tied_folder, 6)]
    decoder = open_decoder(tied_folder, capture=failing)
    assert not decoder.is_captured
    generate(decoder, rooms[0], 6)
    generate(open_decoder(tied_folder), rooms[1], 6)
    assert [one.answers for one in rooms[0]] == [one.answers for one in rooms[1]]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_captured_reads_no_value_and_copies_nothing_from_the_host(folder: Path) -> None:
    """A meta tensor has no value to wait for, and meets no tensor of the processor.

    Both would fail, or freeze a value, when captured on a GPU.
    """
    num_captured = 0

    def check(function: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
        nonlocal num_captured
        num_captured += 1
        with NoHostTensors():  # type: ignore[no-untyped-call]
            outputs = function()
        return (lambda: None), outputs

    open_decoder(folder, device=torch.device("meta"), capture=check)
    assert num_captured > 0


def test_too_little_memory_is_a_message(tied_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.10 GiB.")

    monkeypatch.setattr(torch_decoder, "SlotCache", no_memory)
    with pytest.raises(ModelError, match="40 requests of 256 tokens"):
        open_decoder(tied_folder)


def test_a_closed_decoder_keeps_nothing(tied_folder: Path) -> None:
    decoder = open_decoder(tied_folder, capture=record)
    decoder.close()
    assert not any(isinstance(value, torch.Tensor) for value in vars(decoder).values())
    assert {"_model", "_cache"}.isdisjoint(vars(decoder))
