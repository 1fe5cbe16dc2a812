"""Checkpoints: written whole, read with suspicion, and exactly what was trained."""

import errno
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recipe import TRAINING
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from stentor.errors import ModelError
from stentor.loading import open_checkpoint_folder
from stentor.runs import Run, create_run, list_checkpoints
from training.checkpoint import (
    GROWTH_FILE,
    build_model,
    end_token_of,
    finished_checkpoint,
    load_model,
    open_sound,
    save_checkpoint,
)
from training.disk import DiskError
from training.generated_text import generate_documents
from training.integrity import FILES_KEY, OWN_KEY, TRAINER_FILE
from training.loop import StepReport, train_steps
from training.network import TrainingNetwork
from training.optim import make_optimizer
from training.retention import newest_sound_checkpoint
from training.settings import PretrainSettings
from training.tokenizer import train_tokenizer
from training.trainer_state import OPTIMIZER_FILE, RANDOM_FILE, restore_optimizer
from training.workers import open_workers


@pytest.fixture
def run() -> Run:
    return create_run({}, "tiny")


@pytest.fixture
def model(tiny_model_folder: Path) -> LlamaForCausalLM:
    return load_model(open_checkpoint_folder(tiny_model_folder))


def batch_of_step(step: int) -> torch.Tensor:
    return (torch.arange(4 * 24).reshape(4, 24) * 7 + step) % 300


def trained(
    model: LlamaForCausalLM, num_steps: int, settings: PretrainSettings = TRAINING
) -> torch.optim.Optimizer:
    """Train some steps and return the optimizer as it is then."""
    optimizer = make_optimizer(model, settings)
    steps = steps_of(model, optimizer, 0)
    for _ in range(num_steps):
        next(steps)
    return optimizer


def steps_of(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, first_step: int
) -> Iterator[StepReport]:
    network = TrainingNetwork(model)
    return train_steps(network, optimizer, batch_of_step, TRAINING, open_workers(1), first_step)


def save(run: Run, name: str, model: LlamaForCausalLM, tokenizer: Path, **details: object) -> Path:
    optimizer = None if details.get("is_final") else trained(model, 1)
    folder = run.checkpoints_folder / name
    save_checkpoint(folder, model, tokenizer, dict(details), optimizer)
    return folder


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(
    model: LlamaForCausalLM, tiny_model_folder: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "general-000003"
    settings = replace(TRAINING, optimizer=kind)
    optimizer = trained(model, 3, settings)
    save_checkpoint(folder, model, tiny_model_folder, {}, optimizer)
    straight = steps_of(model, optimizer, 3)

    other = load_model(open_checkpoint_folder(folder))
    restored = make_optimizer(other, settings)
    restore_optimizer(folder, other, restored)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, restored.state[two][key])
            assert value.dtype == restored.state[two][key].dtype
    resumed = steps_of(other, restored, 3)
    for first, second in zip(straight, resumed, strict=True):
        assert (first.loss, first.gradient_norm) == (second.loss, second.gradient_norm)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_folder_is_a_plain_hugging_face_model(model: LlamaForCausalLM, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(generate_documents("general"), 310, 5_000, tmp_path / "tokenizer")
    details = {"stage": "general", "growth": {"is_exact": True}}
    save_checkpoint(tmp_path / "model", model, tmp_path / "tokenizer", details, trained(model, 1))
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("One morning")["input_ids"]
    assert ids == tokenizer.encode("One morning").ids
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits
        assert torch.equal(stock(input_ids=torch.tensor([ids])).logits, expected)
    assert not list((tmp_path / "model").glob("*.bin"))
    values = json.loads((tmp_path / "model" / TRAINER_FILE).read_text())
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert set(values.pop(FILES_KEY)) == names - {TRAINER_FILE} and values.pop(OWN_KEY)
    assert values == details
    assert {OPTIMIZER_FILE, RANDOM_FILE} <= names
    assert json.loads((tmp_path / "model" / GROWTH_FILE).read_text()) == {"is_exact": True}


def test_a_left_over_partial_is_no_checkpoint_and_is_replaced(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    partial = run.checkpoints_folder / ".general-000004.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "stale").touch()
    assert list_checkpoints(run) == []
    assert newest_sound_checkpoint(run, "general") == (None, [])
    folder = save(run, "general-000004", model, tiny_model_folder)
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["general-000004"]
    assert not (folder / "stale").exists()
    # A damaged checkpoint of the same name is replaced as well.
    cut_short(folder / "model.safetensors")
    save(run, "general-000004", model, tiny_model_folder)
    open_checkpoint_folder(folder)
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["general-000004"]


@pytest.mark.parametrize(
    "damage",
    ["model.safetensors", "config.json", TRAINER_FILE, OPTIMIZER_FILE, RANDOM_FILE, "no optimizer"],
)
def test_a_damaged_newest_checkpoint_is_passed_over_by_name(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path, damage: str
) -> None:
    save(run, "general-000004", model, tiny_model_folder)
    newest = save(run, "general-000008", model, tiny_model_folder)
    save(run, "other-000012", model, tiny_model_folder)
    if damage == "no optimizer":
        (newest / OPTIMIZER_FILE).unlink()
    else:
        cut_short(newest / damage)
    resumed, problems = newest_sound_checkpoint(run, "general")
    assert resumed is not None and (resumed.folder.name, resumed.step) == ("general-000004", 4)
    (problem,) = problems
    assert problem.startswith("Checkpoint general-000008 is passed over: ")


def test_a_finished_stage_is_known_by_its_sound_final_checkpoint(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    assert finished_checkpoint(run, "general", 8) is None
    save(run, "general-000008", model, tiny_model_folder, is_final=False)
    assert finished_checkpoint(run, "general", 8) is None
    folder = save(run, "general-000008", model, tiny_model_folder, is_final=True)
    assert finished_checkpoint(run, "general", 8) == folder
    cut_short(folder / "model.safetensors")
    assert finished_checkpoint(run, "general", 8) is None
    cut_short(folder / TRAINER_FILE)
    assert finished_checkpoint(run, "general", 8) is None


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    run: Run, model: LlamaForCausalLM, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half of it is deleted again: the room is needed to say what happened."""
    folder = save(run, "general-000004", model, tiny_model_folder)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(DiskError, match=r"general-000008 could not .* No space left .* Free there"):
        save(run, "general-000008", model, tiny_model_folder)
    with pytest.raises(DiskError):
        save(run, "general-000004", model, tiny_model_folder)
    assert [path.name for path in run.checkpoints_folder.iterdir()] == ["general-000004"]
    open_sound(folder, to_resume=True)


@pytest.mark.parametrize(
    ("end_token", "message"),
    [(None, "names no eos_token_id"), (320, "eos_token_id 320 is not one of the model's 320")],
)
def test_a_model_without_a_usable_end_is_refused(
    model: LlamaForCausalLM,
    tiny_model_folder: Path,
    tmp_path: Path,
    end_token: int | None,
    message: str,
) -> None:
    """An end token outside the vocabulary once surfaced as an IndexError in mid-training."""
    save_checkpoint(tmp_path / "model", model, tiny_model_folder, {})
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "model" / name
        values = {**json.loads(path.read_text()), "eos_token_id": end_token}
        path.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=message):
        end_token_of(open_checkpoint_folder(tmp_path / "model"))


def test_a_tensor_that_is_not_the_models_is_left_out(
    model: LlamaForCausalLM, tiny_model_folder: Path
) -> None:
    """Old checkpoints store `rotary_emb.inv_freq`, which stock transformers computes."""
    shape = open_checkpoint_folder(tiny_model_folder).shape
    weights = dict(model.state_dict())
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    built = build_model(shape, weights, 0)
    assert built.lm_head.weight is built.model.embed_tokens.weight
    assert torch.equal(built.model.norm.weight, model.model.norm.weight)
