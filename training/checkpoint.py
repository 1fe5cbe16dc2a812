"""A checkpoint is a plain Hugging Face folder plus what training needs to go on, all safetensors.

    config.json generation_config.json model.safetensors    loads into stock transformers
    tokenizer.json tokenizer_config.json                    copied from the parent
    growth.json                                             what an expansion did, where one was
    optimizer.safetensors random.safetensors                AdamW moments and random states; not
                                                            at a stage's end, unless another stage
                                                            goes on with them
    trainer.json                                            stage, step, provenance, digests

It is written beside and renamed, so a checkpoint under its final name is complete. Which ones are
kept is not decided here (see retention.py).
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from stentor.errors import ModelError, RunError
from stentor.loading import (
    Checkpoint,
    LlamaShape,
    open_checkpoint_folder,
    read_weights,
    tensor_shapes_of,
)
from stentor.model_folder import WEIGHTS_FILE
from stentor.runs import Run, write_json
from training.disk import DiskError, flush_files, flush_names, writing
from training.integrity import check_sealed, write_sealed
from training.trainer_state import OPTIMIZER_FILE, save_optimizer, save_random_states

GROWTH_FILE = "growth.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


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

    `details` go to trainer.json; a growth report among them also into a file of its own. With an
    optimizer, its moments and every random state are stored as well.

    Raises:
        DiskError: something could not be written. What was written of it is deleted again, which
            leaves room to say so; a checkpoint that was there under this name stays.
    """
    beside = folder.with_name(f".{folder.name}.partial")
    try:
        with writing(f"Checkpoint {folder.name}", folder.parent):
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            _write_files(beside, model, tokenizer_folder, details, optimizer)
            flush_files(beside)
            remove_checkpoint(folder)
            beside.rename(folder)
            flush_names(folder.parent)
    except DiskError:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_files(
    folder: Path,
    model: LlamaForCausalLM,
    tokenizer_folder: Path,
    details: dict[str, Any],
    optimizer: torch.optim.Optimizer | None,
) -> None:
    """Write every file of a checkpoint, trainer.json with the digests of the others last."""
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    save_file(_stored_tensors(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    _copy_tokenizer(tokenizer_folder, folder)
    if optimizer is not None:
        save_optimizer(folder, model, optimizer)
        save_random_states(folder, model.device)
    if "growth" in details:
        write_json(folder / GROWTH_FILE, details["growth"])
    write_sealed(folder, details)


def _copy_tokenizer(source: Path, target: Path) -> None:
    if not (source / TOKENIZER_FILES[0]).is_file():
        raise RunError(f"{source / TOKENIZER_FILES[0]} is gone; a checkpoint needs its tokenizer.")
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _stored_tensors(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """Return the tensors to store; a tied output matrix is stored once, as the embedding."""
    tensors = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")
    return tensors


def open_sound(folder: Path, *, to_resume: bool) -> dict[str, Any]:
    """Check a checkpoint down to the last byte and return the values of its trainer.json.

    `to_resume`: the optimizer's moments must be there as well.

    Raises:
        ModelError: says which file is missing or not what was written.
    """
    values = check_sealed(folder)
    open_checkpoint_folder(folder)
    if to_resume and not (folder / OPTIMIZER_FILE).is_file():
        raise ModelError(f"{folder / OPTIMIZER_FILE} is missing.")
    return values


def finished_checkpoint(run: Run, stage: str, total_steps: int) -> Path | None:
    """Return the sound checkpoint that ended a stage, or None: then the stage runs."""
    folder = run.checkpoints_folder / checkpoint_name(stage, total_steps)
    try:
        return folder if open_sound(folder, to_resume=False).get("is_final") else None
    except ModelError:  # none there, or damaged: the stage goes on from the one before
        return None


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint; under its final name it is whole or not there at all."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
