"""A checkpoint is a plain Hugging Face folder plus what training needs to go on, all safetensors.

    config.json generation_config.json model.safetensors    loads into stock transformers
    tokenizer.json tokenizer_config.json                    copied from the parent
    trainer.json                                            stage, step, provenance
    growth.json                                             what an expansion did, where one was
    optimizer.safetensors                                   AdamW moments; absent at a stage's end

It is written beside and renamed, so a checkpoint under its final name is complete.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.errors import ModelError, RunError
from stentor.loading import (
    Checkpoint,
    LlamaShape,
    open_checkpoint_folder,
    read_json,
    read_weights,
    tensor_shapes_of,
)
from stentor.model_folder import WEIGHTS_FILE
from stentor.runs import Run, list_checkpoints, write_json

TRAINER_FILE = "trainer.json"
OPTIMIZER_FILE = "optimizer.safetensors"
GROWTH_FILE = "growth.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# Complete checkpoints kept inside a stage; the last one of each stage is always kept.
KEPT_PER_STAGE = 2


@dataclass(frozen=True)
class Resumed:
    """A checkpoint of the stage at hand to go on from, and its steps."""

    folder: Path
    step: int


def checkpoint_name(stage: str, step: int) -> str:
    """Return `<stage>-<step>`, six digits."""
    return f"{stage}-{step:06d}"


def llama_config(shape: LlamaShape, end_token: int) -> LlamaConfig:
    """Return the transformers config of a tied Llama of this shape."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context_length,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.is_tied,
        bos_token_id=None,
        eos_token_id=end_token,
    )


def build_model(
    shape: LlamaShape, weights: dict[str, torch.Tensor], end_token: int
) -> LlamaForCausalLM:
    """Return a stock LlamaForCausalLM holding these fp32 weights, loaded strictly.

    Tensors that no Llama of this shape has (the old `rotary_emb.inv_freq`) are left out.
    """
    model = LlamaForCausalLM(llama_config(shape, end_token))
    loaded = {name: weights[name] for name in tensor_shapes_of(shape)}
    if shape.is_tied:
        loaded["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(loaded, strict=True)
    return model


def load_model(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """Return the checkpoint's model in fp32, ready to train."""
    return build_model(checkpoint.shape, read_weights(checkpoint), end_token_of(checkpoint))


def end_token_of(checkpoint: Checkpoint) -> int:
    """Return the token that ends a text.

    Raises:
        ModelError: the model names none, so windows cannot be closed, or one it does not have.
    """
    if not checkpoint.end_tokens:
        raise ModelError(
            f"{checkpoint.folder} names no eos_token_id in generation_config.json or config.json; "
            "add it there."
        )
    end_token = min(checkpoint.end_tokens)
    if not 0 <= end_token < checkpoint.shape.vocab_size:
        raise ModelError(
            f"{checkpoint.folder}: eos_token_id {end_token} is not one of the model's "
            f"{checkpoint.shape.vocab_size:,} tokens. Correct it in generation_config.json."
        )
    return end_token


def save_checkpoint(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer_folder: Path,
    details: dict[str, Any],
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write a checkpoint beside `folder`, flush it to the disk, and rename it into place.

    `details` go to trainer.json; a growth report among them also into a file of its own.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    model.config.save_pretrained(beside)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(beside)
    save_file(_stored_tensors(model), beside / WEIGHTS_FILE, metadata={"format": "pt"})
    _copy_tokenizer(tokenizer_folder, beside)
    if optimizer is not None:
        save_file(_optimizer_tensors(model, optimizer), beside / OPTIMIZER_FILE)
    write_json(beside / TRAINER_FILE, details)
    if "growth" in details:
        write_json(beside / GROWTH_FILE, details["growth"])
    for path in beside.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    _remove(folder)
    beside.rename(folder)


def _copy_tokenizer(source: Path, target: Path) -> None:
    if not (source / TOKENIZER_FILES[0]).is_file():
        raise RunError(f"{source / TOKENIZER_FILES[0]} is gone; a checkpoint needs its tokenizer.")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def restore_optimizer(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.Optimizer
) -> None:
    """Fill the optimizer with the moments stored in a checkpoint.

    Raises:
        RunError: the file is missing or damaged.
    """
    try:
        tensors = load_file(folder / OPTIMIZER_FILE)
        for name, parameter in model.named_parameters():
            optimizer.state[parameter] = {
                # The fused optimizer keeps the step number beside the moments, on the device.
                key: tensors[f"{name}.{key}"].to(parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    except (SafetensorError, OSError, KeyError) as error:
        raise RunError(f"{folder / OPTIMIZER_FILE} is missing or damaged ({error!r}).") from error


def _stored_tensors(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Return the tensors to store; a tied output matrix is stored once, as the embedding."""
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def _optimizer_tensors(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def finished_checkpoint(run: Run, stage: str, total_steps: int) -> Path | None:
    """Return the sound checkpoint that ended a stage, or None: then the stage runs."""
    folder = run.checkpoints_folder / checkpoint_name(stage, total_steps)
    try:
        is_final = read_json(folder / TRAINER_FILE).get("is_final")
        return open_checkpoint_folder(folder).folder if is_final else None
    except ModelError:  # none there, or damaged: the stage goes on from the one before
        return None


def newest_sound_checkpoint(run: Run, stage: str) -> tuple[Resumed | None, list[str]]:
    """Return the newest checkpoint of a stage that can be read, and what was wrong with newer ones.

    The weights are checked by their header and size, the optimizer's file likewise.
    """
    problems: list[str] = []
    for step, folder in reversed(_checkpoints_of(run, stage)):
        try:
            open_checkpoint_folder(folder)
            read_json(folder / TRAINER_FILE)
            with safe_open(folder / OPTIMIZER_FILE, framework="pt"):
                return Resumed(folder, step), problems
        except (ModelError, SafetensorError, OSError) as error:
            problems.append(f"Checkpoint {folder.name} is passed over: {error}")
    return None, problems


def prune_checkpoints(run: Run, stage: str) -> None:
    """Delete all but the newest checkpoints of a stage, and what a killed process left unfinished.

    Newest means most steps, not the folder's time, which a copied run does not keep.
    """
    for _, folder in _checkpoints_of(run, stage)[:-KEPT_PER_STAGE]:
        _remove(folder)
    for left_over in run.checkpoints_folder.glob(f".{stage}-*"):
        shutil.rmtree(left_over, ignore_errors=True)


def _checkpoints_of(run: Run, stage: str) -> list[tuple[int, Path]]:
    """Return a stage's checkpoints with their steps, fewest steps first."""
    of_stage = [path for path in list_checkpoints(run) if path.name.rpartition("-")[0] == stage]
    return sorted((int(path.name.rpartition("-")[2]), path) for path in of_stage)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; under its final name it is whole or not there at all."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
