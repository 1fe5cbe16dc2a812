"""The GGUF file: llama.cpp reads the same tokens and writes the same text as we do."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stentor.engine.engine import Engine, GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.errors import ModelError, OptionError
from stentor.home import assets_folder
from stentor.loading import Checkpoint, open_checkpoint_folder
from stentor.prompts import categories
from training.hand_over import gguf_export

NUM_PROMPTS, NUM_TOKENS = 20, 24
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed"
)


@pytest.fixture(scope="module")
def demo_big() -> Checkpoint:
    return open_checkpoint_folder(assets_folder() / "models" / "demo-big")


def prompts() -> list[str]:
    """Return two prompts of every category."""
    texts = [p.text for category in categories().values() for p in category.prompts[:2]]
    assert len(texts) == NUM_PROMPTS
    return texts


def our_texts(checkpoint: Checkpoint) -> list[str]:
    """Return the likeliest continuations, in fp32."""
    settings = SamplingSettings(max_new_tokens=NUM_TOKENS, temperature=0.0)
    engine = Engine(checkpoint, precision="fp32")
    try:
        streams = [
            engine.submit(GenerationRequest(tuple(ids_of(checkpoint, text)), settings, text))
            for text in prompts()
        ]
        for stream in streams:
            stream.wait()
        return [stream.snapshot().text for stream in streams]
    finally:
        engine.close()


def ids_of(checkpoint: Checkpoint, text: str) -> list[int]:
    ids: list[int] = checkpoint.tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@needs_gguf
@pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)
def test_llama_cpp_writes_what_we_write(demo_big: Checkpoint, tmp_path: Path) -> None:
    """Greedy, 20 prompts: the same tokens of the prompt, and the same text after it."""
    llama_cpp: Any = importlib.import_module("llama_cpp")
    path = tmp_path / "demo.gguf"
    gguf_export.write(demo_big, path, "F32", "Demo big")
    llama = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, verbose=False)
    try:
        for text, ours in zip(prompts(), our_texts(demo_big), strict=True):
            read = llama.tokenize(text.encode(), add_bos=False, special=False)
            assert read == ids_of(demo_big, text)
            answer = llama.create_completion(text, max_tokens=NUM_TOKENS, temperature=0.0)
            assert answer["choices"][0]["text"] == ours
    finally:
        llama.close()


@needs_gguf
def test_the_file_holds_shape_tokenizer_and_every_weight(
    demo_big: Checkpoint, tmp_path: Path
) -> None:
    gguf: Any = importlib.import_module("gguf")
    path = tmp_path / "demo.gguf"
    gguf_export.write(demo_big, path, "Q8_0", "Demo big")
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.name").contents() == "Demo big"
    assert reader.get_field("tokenizer.ggml.pre").contents() == "smollm"
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    assert len(tokens) == demo_big.shape.vocab_size and tokens[0] == "<|end|>"
    names = {tensor.name for tensor in reader.tensors}
    assert len(names) == 2 + 9 * demo_big.shape.num_layers, "tied: no output matrix of its own"


def changed_copy(folder: Path, target: Path, **changes: object) -> Checkpoint:
    """Return a copy of a model folder whose tokenizer.json says something else."""
    shutil.copytree(folder, target)
    file = target / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**values, **changes}), encoding="utf-8")
    return open_checkpoint_folder(target)


@needs_gguf
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    """It once loaded a file of an unknown tokenizer and split every prompt in its own way."""
    spaced = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    oddities: list[dict[str, Any]] = [
        {"pre_tokenizer": spaced},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": None},
    ]
    for number, changes in enumerate(oddities):
        odd = changed_copy(tiny_model_folder, tmp_path / str(number), **changes)
        with pytest.raises(ModelError, match=r"llama\.cpp has no name for this tokenizer"):
            gguf_export.write(odd, tmp_path / "odd.gguf", "F16", "Odd")
    assert not (tmp_path / "odd.gguf").exists()


@needs_gguf
def test_an_unknown_kind_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    tiny = open_checkpoint_folder(tiny_model_folder)
    with pytest.raises(OptionError, match="one of F32, F16, Q8_0; got 'Q2_K'"):
        gguf_export.write(tiny, tmp_path / "x.gguf", "Q2_K", "Tiny")
