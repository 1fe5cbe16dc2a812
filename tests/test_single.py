"""Verbs on one checkpoint: what `validate` measures and what `expand` says."""

import json
import math
from pathlib import Path

import pytest
import torch
from stage_texts import held_out_text, trained_texts, written

from stentor.loading import open_checkpoint_folder
from training.__main__ import main
from training.checkpoint import load_model
from training.loop import validation_loss
from training.network import TrainingNetwork


def test_validate_measures_a_model_on_text(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story, facts = tmp_path / "story.txt", tmp_path / "facts.jsonl"
    story.write_text("Naïve café owners say “bonjour” to every visitor. 😀\n" * 60)
    facts.write_text(json.dumps({"text": "Two and two are four; four and four are eight. " * 60}))
    assert main(["validate", str(tiny_model_folder), str(story), str(facts), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    checkpoint = open_checkpoint_folder(tiny_model_folder)
    assert (values["model"], values["revision"]) == (str(tiny_model_folder), checkpoint.revision)

    # By hand: in training, the two files are read in turn, each document with its end.
    ids: list[int] = []
    for text in (story.read_text(), json.loads(facts.read_text())["text"]):
        ids += [*checkpoint.tokenizer.encode(text).ids, 0]
    num_windows = len(ids) // 511
    windows = torch.tensor(ids[: num_windows * 511]).reshape(num_windows, 511)
    windows = torch.cat([windows, torch.zeros(num_windows, 1, dtype=torch.int64)], dim=1)
    loss = validation_loss(TrainingNetwork(load_model(checkpoint)), [windows])
    assert values["loss"] == pytest.approx(loss, rel=1e-5)
    assert (values["num_windows"], values["num_tokens"]) == (num_windows, num_windows * 511)
    # Each token of this tokenizer spells its bytes, one printable character each.
    predicted = windows[:, 1:].flatten().tolist()
    spelled = [str(checkpoint.tokenizer.id_to_token(token)) for token in predicted if token != 0]
    num_bytes = sum(map(len, spelled))
    assert abs(values["num_bytes"] - num_bytes) <= 3 * num_windows, "a character may be cut"
    bits = loss * values["num_tokens"] / math.log(2)
    assert values["bits_per_byte"] == pytest.approx(bits / values["num_bytes"], rel=1e-5)

    assert main(["validate", str(tiny_model_folder), str(tmp_path), "--max-windows", "2"]) == 0
    line = capsys.readouterr().out
    assert checkpoint.revision in line and "bits per byte over 1,022 tokens" in line
    facts.write_text('{"text": "short"}')
    assert main(["validate", str(tiny_model_folder), str(facts)]) == 2
    assert "shorter than a window of 512 tokens" in capsys.readouterr().err


def test_validate_measures_what_no_stage_trains_on(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, apart = tmp_path / "mixed.jsonl", tmp_path / "apart.jsonl"
    held_out = held_out_text(600)
    written(mixed, [*trained_texts(40), held_out])
    written(apart, [held_out])
    values = []
    for file, flags in ((mixed, ["--held-out"]), (apart, []), (mixed, [])):
        assert main(["validate", str(tiny_model_folder), str(file), "--json", *flags]) == 0
        values.append(json.loads(capsys.readouterr().out))
    assert [item["only_held_out"] for item in values] == [True, False, False]
    assert [item["num_documents"] for item in values[:2]] == [1, 1] < [values[2]["num_documents"]]
    for name in ("loss", "bits_per_byte", "num_windows", "num_bytes"):
        assert values[0][name] == values[1][name] != values[2][name]
    assert main(["validate", str(tiny_model_folder), str(mixed), "--held-out"]) == 0
    assert "bytes of 1 held-out documents)" in capsys.readouterr().out
    written(mixed, trained_texts(40))
    assert main(["validate", str(tiny_model_folder), str(mixed), "--held-out"]) == 2
    message = capsys.readouterr().err
    assert "documents of mixed.jsonl that are held out: The text is shorter than a win" in message
    assert "About one document in 32 is never trained on" in message


def test_expand_prints_what_it_did_and_warns_beside_it(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ("--hidden-size=64", "--intermediate-size=128", "--num-layers=3", "--num-heads=4")
    plain = ("--width=clone", "--symmetry-break=none", "--vocab-size=321", "--seed=4")
    assert main(["expand", str(tiny_model_folder), str(tmp_path / "grown"), *sizes, *plain]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("clone (none) + identity_interleave, seed 4: ")
    assert "layers (' is new): 0 1 1'" in printed.out
    assert "use 0.5 of the learning rate" in printed.out
    assert [line[:8] for line in printed.err.splitlines()] == ["warning:"]
    report = json.loads((tmp_path / "grown" / "growth.json").read_text())
    assert (report["width"], report["symmetry_break"], report["seed"]) == ("clone", "none", 4)
    assert open_checkpoint_folder(tmp_path / "grown").shape.vocab_size == 321


def test_an_impossible_growth_leaves_nothing_behind(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ("--width=clone", "--hidden-size=48", "--num-heads=3", "--num-layers=3")
    assert main(["expand", str(tiny_model_folder), str(tmp_path / "grown"), *target]) == 2
    assert (
        "clone repeats whole parts, but hidden_size 48 is 1.5 times 32" in capsys.readouterr().err
    )
    assert not list(tmp_path.glob("*grown*"))
