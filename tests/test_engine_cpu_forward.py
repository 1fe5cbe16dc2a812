"""The CPU decoder computes what transformers computes; in int8 nearly so; damage is not hidden."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_TEXT
from cpu_models import (
    EMBEDDED,
    GREEDY,
    PRECISIONS,
    SHAPES,
    Request,
    measure,
    open_decoder,
    open_embedded,
    random_ids,
    run_alone,
    write_llama,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from stentor.engine.cpu_decoder import CpuDecoder
from stentor.engine.decoder import NOT_FINITE, Draw, Measure, Piece
from stentor.loading import Checkpoint, open_checkpoint_folder

PROMPT = "The river runs past the mill, and the miller counts"


@pytest.fixture(scope="module", params=["tiny", *SHAPES, *EMBEDDED])
def checkpoint(
    request: pytest.FixtureRequest,
    tiny_model_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoint:
    """Return one model after the other."""
    name: str = request.param
    if name in EMBEDDED:
        return open_embedded(name)
    is_tiny = name == "tiny"
    folder = tiny_model_folder if is_tiny else write_llama(tmp_path_factory.mktemp(name), name)
    return open_checkpoint_folder(folder)


def reference_model(checkpoint: Checkpoint) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM) and not model.training
    return model


@torch.inference_mode()
def reference_logits(checkpoint: Checkpoint, ids: tuple[int, ...]) -> Tensor:
    """Return the logits [tokens, vocabulary] of transformers."""
    logits: Tensor = reference_model(checkpoint)(torch.tensor([ids])).logits[0]
    return logits


def logits_after(decoder: CpuDecoder, piece: Piece) -> Tensor:
    """Read a piece that asks about each of its tokens; return the logits behind the answers."""
    decoder.step([piece])
    logits = decoder._buffers.logits[: len(piece.token_ids), : decoder._seen.shape[1]]
    return torch.from_numpy(logits.copy())


def test_logits_agree_with_transformers_however_the_tokens_arrive(checkpoint: Checkpoint) -> None:
    """At once, in pieces, or one by one: every position within 1e-4 of transformers in fp32."""
    ids = random_ids(checkpoint, 100)
    expected = reference_logits(checkpoint, ids)
    decoder = open_decoder(checkpoint, "fp32", context_length=128)
    for sizes in ([100], [64, 36], [7, 1, 1, 30, 61], [1] * 100):
        start = 0
        for size in sizes:
            part = ids[start : start + size]
            received = logits_after(decoder, Piece(1, start, part, Measure(part)))
            assert (received - expected[start : start + size]).abs().max().item() < 1e-4
            start += size


def test_the_last_positions_of_the_context_agree_too(checkpoint: Checkpoint) -> None:
    length = checkpoint.shape.context_length
    ids = random_ids(checkpoint, length)
    decoder = open_decoder(checkpoint, "fp32")
    for start in range(0, length - 128, 128):
        decoder.step([Piece(1, start, ids[start : start + 128])])
    last = ids[-128:]
    received = logits_after(decoder, Piece(1, length - 128, last, Measure(last)))
    expected = reference_logits(checkpoint, ids)[-128:]
    assert (received - expected).abs().max().item() < 1e-4


def test_greedy_text_is_that_of_transformers_over_64_tokens(checkpoint: Checkpoint) -> None:
    prompt = tuple(checkpoint.tokenizer.encode(PROMPT).ids)
    output = reference_model(checkpoint).generate(  # type: ignore[misc] # its own hint is wrong
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=64,
        pad_token_id=0,
    )
    assert isinstance(output, Tensor)
    expected = output[0, len(prompt) :].tolist()  # fewer than 64 where the text ends
    request = Request(prompt, GREEDY, num_new=len(expected))
    run_alone(open_decoder(checkpoint, "fp32"), request)
    assert [answer.token_id for answer in request.answers] == expected


@pytest.mark.parametrize("name", EMBEDDED)
def test_int8_is_close_to_fp32(name: str) -> None:
    """On a short text: the README has the figures over much of what the models never saw."""
    checkpoint = open_embedded(name)
    ids = tuple(checkpoint.tokenizer.encode(" ".join(TINY_TEXT)).ids)
    told = {
        precision: measure(open_decoder(checkpoint, precision), ids, [len(ids) - 1], count=1)
        for precision in PRECISIONS
    }
    scores = {name: np.array([one.log_probability for one in told[name]]) for name in told}
    difference = scores["int8"] - scores["fp32"]
    assert len(difference) > 80 and abs(difference.mean()) < 0.005 * abs(scores["fp32"].mean())
    assert abs(difference).max() < 0.3
    best = {name: [one.alternatives[0].token_id for one in told[name]] for name in told}
    same = sum(one == other for one, other in zip(best["int8"], best["fp32"], strict=True))
    assert same >= 0.95 * len(difference)


def damaged(source: Path, target: Path, name: str, place: tuple[int, ...], value: float) -> Path:
    """Copy a model with one weight replaced."""
    shutil.copytree(source, target)
    weights = load_file(target / "model.safetensors")
    weights[name][place] = value
    save_file(weights, target / "model.safetensors")
    return target


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("untied") / "model", "grouped")


MATRICES = [
    "lm_head",
    "model.layers.1.self_attn.q_proj",
    "model.layers.1.self_attn.k_proj",
    "model.layers.1.self_attn.v_proj",
    "model.layers.1.self_attn.o_proj",
    "model.layers.1.mlp.gate_proj",
    "model.layers.1.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
]
GAINS = ["model.norm", "model.layers.0.input_layernorm", "model.layers.2.post_attention_layernorm"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_told_and_not_hidden(
    tmp_path: Path, untied_folder: Path, precision: str, value: float
) -> None:
    """int8 knows no NaN: without care a damaged model would go on writing nonsense."""
    for name in (*MATRICES, *GAINS):
        place = (7, 5) if name in MATRICES else (5,)
        folder = damaged(untied_folder, tmp_path / name, f"{name}.weight", place, value)
        decoder = open_decoder(open_checkpoint_folder(folder), precision)
        pieces = [
            Piece(0, 0, (4, 9, 11), Draw(GREEDY, 0.5)),
            Piece(1, 0, (3, 9), Measure((5, 6))),
        ]
        answers = [answer for given in decoder.step(pieces) for answer in given]
        assert [answer.token_id for answer in answers] == [NOT_FINITE] * 3, name


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_damaged_embedding_harms_only_the_texts_with_that_token(
    tmp_path: Path, untied_folder: Path, precision: str
) -> None:
    name = "model.embed_tokens.weight"
    folder = damaged(untied_folder, tmp_path / "model", name, (9, 5), np.nan)
    whole, broken = (
        open_decoder(open_checkpoint_folder(path), precision, num_slots=3)
        for path in (untied_folder, folder)
    )
    ids = (4, 11, 12, 40)
    pieces = [
        Piece(2, 0, (4, 9, 11, 12), Measure((9, 11, 12, 40), 2)),
        Piece(0, 0, ids, Measure((*ids[1:], 7), 2)),
    ]
    poisoned, others = broken.step(pieces)
    assert [answer.token_id for answer in poisoned] == [9] + [NOT_FINITE] * 3
    assert others == whole.step(pieces)[1], "beside it in the step, to the bit"
    again = Request(ids, GREEDY, num_new=5)
    fresh = Request(ids, GREEDY, num_new=5)
    run_alone(broken, again, slot=2)
    run_alone(whole, fresh, slot=2)
    assert again.answers == fresh.answers, "after it in its slot"
