"""The decoder agrees with transformers: on tiny models and on the embedded ones that are there."""

from pathlib import Path

import pytest
import torch
from conftest import write_tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.engine.cache import CacheRow
from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.llama import LlamaDecoder
from stentor.engine.sampling import SamplingSettings
from stentor.loading import open_checkpoint_folder, read_weights
from stentor.models import MODELS

EMBEDDED = [name for name, spec in MODELS.items() if spec.folder and spec.folder.is_dir()]
PROMPT = "The river runs past the mill, and the miller counts"


@pytest.fixture(scope="session")
def grouped_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama with grouped heads, an untied head, another RoPE base and norm epsilon."""
    folder = tmp_path_factory.mktemp("grouped-llama")
    tokenizer = write_tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 3,
        hidden_size=48,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=10,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        rms_norm_eps=1e-3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["tiny", "grouped", *EMBEDDED])
def model_folder(request: pytest.FixtureRequest, tiny_model_folder: Path) -> Path:
    """Return one model folder after the other."""
    if request.param == "tiny":
        return tiny_model_folder
    if request.param == "grouped":
        grouped: Path = request.getfixturevalue("grouped_model_folder")
        return grouped
    folder = MODELS[request.param].folder
    assert folder is not None
    return folder


def reference_model(folder: Path) -> LlamaForCausalLM:
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM) and not model.training
    return model


def test_logits_agree_with_transformers_however_the_tokens_arrive(model_folder: Path) -> None:
    """At once, in pieces, or one by one: every position within 1e-4 of transformers in fp32."""
    checkpoint = open_checkpoint_folder(model_folder)
    decoder = LlamaDecoder(checkpoint.shape, read_weights(checkpoint), capacity=128)
    vocabulary = checkpoint.shape.vocab_size
    numbers = torch.Generator().manual_seed(3)
    token_ids = torch.randint(vocabulary, (100,), generator=numbers).tolist()
    with torch.inference_mode():
        expected = reference_model(model_folder)(torch.tensor([token_ids])).logits[0]
    for sizes in ([100], [64, 36], [7, 1, 1, 30, 61], [1] * 100):
        row = CacheRow(checkpoint.shape, capacity=128)
        pieces = [decoder.hidden_states(list(piece), row) for piece in split(token_ids, sizes)]
        received = decoder.logits(torch.cat(pieces))
        assert row.length == 100
        assert (received - expected).abs().max().item() < 1e-4


def split(token_ids: list[int], sizes: list[int]) -> list[list[int]]:
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return [token_ids[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def test_greedy_text_is_that_of_transformers_over_64_tokens(model_folder: Path) -> None:
    checkpoint = open_checkpoint_folder(model_folder)
    prompt_ids = list(checkpoint.tokenizer.encode(PROMPT).ids)
    output = reference_model(model_folder).generate(  # type: ignore[misc] # its own hint is wrong
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=64,
        pad_token_id=0,
    )
    assert isinstance(output, torch.Tensor)
    expected = [number for number in output[0].tolist()[len(prompt_ids) :]]
    while expected and expected[-1] in checkpoint.end_tokens:
        expected.pop()
    engine = Engine(checkpoint, num_threads=1)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=64)
    stream = engine.submit(GenerationRequest(tuple(prompt_ids), settings, "test"))
    assert stream.wait(timeout=60.0)
    engine.close()
    snapshot = stream.snapshot()
    assert list(snapshot.token_ids) == expected
    whole = checkpoint.tokenizer.decode(prompt_ids + expected)
    assert snapshot.text == whole.removeprefix(PROMPT).rstrip("\ufffd")


def test_rows_do_not_see_each_other(tiny_model_folder: Path) -> None:
    """Interleaving two rows gives, bit for bit, what each gives alone."""
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    decoder = LlamaDecoder(checkpoint.shape, read_weights(checkpoint), capacity=32)
    texts = [[5, 9, 40, 7], [300, 2, 2, 61]]

    def new_row() -> CacheRow:
        return CacheRow(checkpoint.shape, capacity=32)

    alone = []
    for text in texts:
        row = new_row()
        alone.append([decoder.hidden_states([token], row) for token in text])
    rows = [new_row(), new_row()]
    together: list[list[torch.Tensor]] = [[], []]
    for place in range(4):
        for number in (0, 1):
            hidden = decoder.hidden_states([texts[number][place]], rows[number])
            together[number].append(hidden)
    for number in (0, 1):
        assert torch.equal(torch.cat(together[number]), torch.cat(alone[number]))
