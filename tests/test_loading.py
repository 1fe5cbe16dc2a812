"""Loading: what is accepted, and that everything else is refused by file, reason and mend."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stentor.errors import ModelError
from stentor.loading import (
    count_parameters,
    open_checkpoint_folder,
    read_weights,
    tensor_shapes_of,
)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny model that a test may spoil."""
    copy = tmp_path / "model"
    shutil.copytree(tiny_model_folder, copy)
    return copy


def change_config(folder: Path, **values: Any) -> None:  # noqa: ANN401 - JSON values
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_a_checkpoint_says_what_it_is(folder: Path) -> None:
    checkpoint = open_checkpoint_folder(folder)
    shape = checkpoint.shape
    assert (shape.vocab_size, shape.hidden_size, shape.num_layers) == (320, 32, 2)
    assert (shape.num_heads, shape.num_key_value_heads, shape.head_dim) == (2, 2, 16)
    assert shape.is_tied and shape.context_length == 512 and shape.rope_theta == 10_000.0
    assert checkpoint.end_tokens == {0}
    assert checkpoint.revision.startswith("sha256:")
    weights = read_weights(checkpoint)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == tensor_shapes_of(
        shape
    )
    total = sum(tensor.numel() for tensor in weights.values())
    assert checkpoint.num_parameters == count_parameters(folder) == total


def test_three_rows_more_than_the_config_says_are_loaded(folder: Path) -> None:
    """Stentor-Big's card says 32,768 tokens, its parameter count means 32,771 rows."""

    def add_rows(weights: dict[str, torch.Tensor]) -> None:
        old = weights["model.embed_tokens.weight"]
        weights["model.embed_tokens.weight"] = torch.cat((old, old[:3]))

    change_weights(folder, add_rows)
    checkpoint = open_checkpoint_folder(folder)
    assert checkpoint.shape.vocab_size == 323
    assert read_weights(checkpoint)["model.embed_tokens.weight"].shape[0] == 323


def test_fewer_rows_than_the_tokenizer_needs_are_refused(folder: Path) -> None:
    def drop_row(weights: dict[str, torch.Tensor]) -> None:
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:-1].clone()

    change_weights(folder, drop_row)
    with pytest.raises(ModelError, match=r"tokenizer\.json has token ids up to 319, the model 319"):
        open_checkpoint_folder(folder)


def test_an_added_token_far_beyond_the_rows_is_refused(folder: Path) -> None:
    """Counting tokens is not enough: 321 tokens whose last has id 5,000 would crash later."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    added = dict(tokenizer["added_tokens"][0], id=5000, content="<|far|>")
    tokenizer["added_tokens"].append(added)
    tokenizer["model"]["vocab"]["<|far|>"] = 5000
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="token ids up to 5,000"):
        open_checkpoint_folder(folder)


def test_shards_are_loaded(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in files.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    checkpoint = open_checkpoint_folder(folder)
    assert len(checkpoint.files) == 2
    loaded = read_weights(checkpoint)
    assert all(torch.equal(loaded[name], weights[name]) for name in names)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_come_as_fp32(folder: Path, dtype: torch.dtype) -> None:
    def convert(weights: dict[str, torch.Tensor]) -> None:
        weights.update({name: tensor.to(dtype) for name, tensor in weights.items()})

    change_weights(folder, convert)
    weights = read_weights(open_checkpoint_folder(folder))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_loaded_weights_do_not_change_with_their_file(folder: Path) -> None:
    """Tensors mapped to the file changed, or killed the process, when a training run wrote anew."""
    weights = read_weights(open_checkpoint_folder(folder))
    before = {name: tensor.clone() for name, tensor in weights.items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as stream:
        stream.write(b"\0" * path.stat().st_size)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_weights_cut_short_after_the_check_are_an_error_for_the_user(folder: Path) -> None:
    checkpoint = open_checkpoint_folder(folder)
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ModelError, match="cannot be read any more"):
        read_weights(checkpoint)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "gpt2"}, "type 'gpt2'"),
        ({"model_type": None}, "type None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "not a LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "'llama3' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "'linear'"),
        ({"num_hidden_layers": "many"}, "a size is missing or wrong"),
        ({"num_hidden_layers": None}, "a size is missing or wrong"),
        ({"num_hidden_layers": 10**9}, "make no Llama"),
        ({"num_hidden_layers": 0}, "not positive"),
        ({"num_attention_heads": 0}, "a size is missing or wrong|not positive"),
        ({"num_attention_heads": 1e400}, "a size is missing or wrong"),
        ({"num_key_value_heads": -1}, "not positive"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "cannot share"),
        ({"head_dim": 15}, "heads of 15"),
        ({"max_position_embeddings": 1}, "context of 1 "),
        ({"max_position_embeddings": 10**13}, "beyond all reason"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_parameters": {"rope_theta": 0.0}}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": "big"}}, "a size is missing or wrong"),
        ({"intermediate_size": 65}, r"gate_proj.weight has shape \[64, 32\]"),
        ({"num_hidden_layers": 3}, r"lack model\.layers\.2\."),
        ({"num_hidden_layers": 1}, r"has no model\.layers\.1\."),
        ({"tie_word_embeddings": False}, r"lack lm_head\.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_the_reason(
    folder: Path, values: dict[str, Any], reason: str
) -> None:
    change_config(folder, **values)
    with pytest.raises(ModelError, match=reason) as error:
        open_checkpoint_folder(folder)
    assert str(folder) in str(error.value), "the message names the file or the folder"


@pytest.mark.parametrize(
    "values",
    [
        {"rope_parameters": None, "rope_theta": 500_000.0, "rope_scaling": None},
        {"architectures": None},
        {"num_key_value_heads": None, "head_dim": None},
        {"attention_bias": None},
        {"rope_parameters": "default"},
    ],
)
def test_configs_of_older_writers_are_accepted(folder: Path, values: dict[str, Any]) -> None:
    change_config(folder, **values)
    theta = open_checkpoint_folder(folder).shape.rope_theta
    assert theta == values.get("rope_theta", 10_000.0)


def test_tensors_that_no_plain_llama_has_are_refused(folder: Path) -> None:
    """A bias under a config without biases was silently left out, so the texts were wrong."""

    def add_bias(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.0.self_attn.q_proj.bias"] = torch.ones(32)

    change_weights(folder, add_bias)
    with pytest.raises(ModelError, match=r"has no model\.layers\.0\.self_attn\.q_proj\.bias"):
        open_checkpoint_folder(folder)


def test_computed_buffers_of_old_checkpoints_are_passed_over(folder: Path) -> None:
    def add_buffer(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    change_weights(folder, add_buffer)
    assert open_checkpoint_folder(folder).num_parameters == count_parameters(folder) == 30_880


def test_weights_that_are_no_floats_are_refused(folder: Path) -> None:
    def round_off(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)

    change_weights(folder, round_off)
    with pytest.raises(ModelError, match="stored as I8"):
        open_checkpoint_folder(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", r"model\.safetensors is missing"),
        ("tokenizer.json", r"tokenizer\.json is missing\. Copy the tokenizer\.json"),
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str, reason: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=reason):
        open_checkpoint_folder(folder)


def test_a_truncated_file_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        open_checkpoint_folder(folder)


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"model": {"type": "Nonsense"}}'])
def test_a_damaged_tokenizer_is_named(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        open_checkpoint_folder(folder)


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    """Opening this one would create a file."""
    trace = tmp_path / "executed"
    (folder / "model.safetensors").unlink()
    payload = f"cpathlib\nPath\n(S'{trace}'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(payload)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle and is never opened"):
        open_checkpoint_folder(folder)
    assert not trace.exists()


def test_truncation_and_padding_saved_with_a_tokenizer_do_not_change_prompts(folder: Path) -> None:
    path = folder / "tokenizer.json"
    checkpoint = open_checkpoint_folder(folder)
    checkpoint.tokenizer.enable_truncation(max_length=2)
    checkpoint.tokenizer.enable_padding(length=8)
    checkpoint.tokenizer.save(str(path))
    ids = open_checkpoint_folder(folder).tokenizer.encode("The river runs").ids
    assert len(ids) > 2 and ids[-1] != 0


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 4]}, 0, {3, 4}),
        ({"eos_token_id": None}, 0, set()),
        ({}, 5, {5}),
        (None, [6, 7], {6, 7}),
        (None, None, set()),
        ({"eos_token_id": "end"}, 0, set()),
    ],
)
def test_end_tokens_come_from_the_generation_config_first(
    folder: Path, generation: dict[str, Any] | None, config: object, expected: set[int]
) -> None:
    path = folder / "generation_config.json"
    path.unlink()
    if generation is not None:
        path.write_text(json.dumps(generation))
    change_config(folder, eos_token_id=config)
    assert open_checkpoint_folder(folder).end_tokens == expected
