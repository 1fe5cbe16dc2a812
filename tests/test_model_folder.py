"""The files of a model folder: one, many, missing, damaged, or pickles that must stay closed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stentor.errors import ModelError
from stentor.model_folder import (
    INDEX_FILE,
    WEIGHTS_FILE,
    is_complete,
    read_headers,
    read_json,
    read_revision,
    weight_files,
)


def write_weights(path: Path, name: str = "a") -> Path:
    save_file({name: torch.zeros(2, 3, dtype=torch.bfloat16)}, path)
    return path


def write_index(folder: Path, *names: object) -> None:
    weight_map = {f"tensor {place}": name for place, name in enumerate(names)}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def test_one_file_comes_before_an_index(tmp_path: Path) -> None:
    """As in transformers: an index left behind by an earlier download does not count."""
    write_weights(tmp_path / WEIGHTS_FILE)
    write_index(tmp_path, "gone.safetensors")
    assert weight_files(tmp_path) == (tmp_path / WEIGHTS_FILE,)


def test_shards_come_from_the_index_each_once(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_weights(tmp_path / name)
    write_index(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    assert weight_files(tmp_path) == (tmp_path / "a.safetensors", tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "model.bin", 7, None],
)
def test_an_index_leads_nowhere_else(tmp_path: Path, name: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_weights(tmp_path / "secret.safetensors")
    (folder / "model.bin").write_bytes(b"\x80\x04.")
    write_index(folder, name)
    with pytest.raises(ModelError, match=r"index\.json names"):
        weight_files(folder)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_names_is_refused(tmp_path: Path, index: str) -> None:
    (tmp_path / INDEX_FILE).write_text(index)
    with pytest.raises(ModelError, match="names no weights"):
        weight_files(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, "a.safetensors")
    with pytest.raises(ModelError, match=r"a\.safetensors is missing"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_a_folder_of_pickles_is_told_how_to_mend_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=f"{name} is a pickle and is never opened; convert"):
        weight_files(tmp_path)


def test_complete_means_every_file(tmp_path: Path) -> None:
    assert not is_complete(tmp_path / "nowhere")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    assert not is_complete(tmp_path)
    write_weights(tmp_path / WEIGHTS_FILE)
    assert is_complete(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert not is_complete(tmp_path)


def test_headers_tell_shapes_and_types(tmp_path: Path) -> None:
    headers = read_headers((write_weights(tmp_path / WEIGHTS_FILE, "w"),))
    assert headers["w"].shape == (2, 3) and headers["w"].dtype == "BF16"


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_a_file_cut_short_is_named_with_the_mend(tmp_path: Path, keep: int) -> None:
    path = write_weights(tmp_path / WEIGHTS_FILE)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or cut short"):
        read_headers((path,))


def test_a_header_of_absurd_size_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="damaged"):
        read_headers((path,))


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff", "7", "[" * 200_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json .*Download it again"):
        read_json(path)


def test_a_huge_json_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.truncate(65 << 20)
    with pytest.raises(ModelError, match="over 64 MB"):
        read_json(path)


def test_the_revision_is_the_commit_or_the_hash_of_the_weights(tmp_path: Path) -> None:
    commit = "1234567890abcdef1234567890abcdef12345678"
    snapshot = tmp_path / "snapshots" / commit
    snapshot.mkdir(parents=True)
    path = write_weights(snapshot / WEIGHTS_FILE)
    assert read_revision(snapshot, (path,)) == commit
    other = write_weights(tmp_path / WEIGHTS_FILE)
    first = read_revision(tmp_path, (other,))
    assert first.startswith("sha256:") and len(first) == len("sha256:") + 12
    write_weights(other, "renamed")
    assert read_revision(tmp_path, (other,)) != first
