"""`python -m stentor`: the commands as a user types them, their exit codes and their streams."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_variants import deepen, write_endless

from stentor.__main__ import COMMANDS, FAILED, PIPE_CLOSED, main, make_parser
from stentor.errors import INTERRUPTED
from stentor.models import MODELS

ROOT = Path(__file__).resolve().parent.parent


def start(*arguments: str) -> "subprocess.Popen[str]":
    """Start a real `python -m stentor` with its three streams in our hands."""
    return subprocess.Popen(
        [sys.executable, "-m", "stentor", *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_generate_streams_prompt_continuation_and_figures(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "generate",
        "The river",
        "--model",
        str(tiny_model_folder),
        "--max-new-tokens",
        "5",
    ]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert f"({tiny_model_folder}, sha256:" in output
    assert "\nThe river" in output
    assert "[token limit, 5 tokens, " in output


def test_generate_json_holds_all_that_is_needed_to_repeat_it(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--model", str(tiny_model_folder)]
    flags = ["--max-new-tokens", "6", "--seed", "7", "--temperature", "1.0", "--top-k", "9"]
    flags += ["--alternatives", "9", "--precision", "int8", "--threads", "1"]
    arguments = ["generate", "The river", *model, *model, *flags, "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompt"] == "The river" and report["overflow"] == "refuse"
    assert report["settings"]["seed"] == 7 and report["settings"]["top_p"] == 0.9
    assert {"stentor", "torch", "numba", "tokenizers", "python"} <= set(report["versions"])
    first, second = report["results"]
    assert first["text"] == second["text"] == "".join(token["text"] for token in first["tokens"])
    assert first["revision"].startswith("sha256:") and first["stop_reason"] == "token limit"
    assert first["num_tokens"] == len(first["tokens"]) == 6
    for token in first["tokens"]:
        assert token["log_probability"] <= 0.0 and 1 <= token["rank"] <= 9
        assert token["alternatives"][token["rank"] - 1]["token_id"] == token["token_id"]
    assert (first["precision"], first["device"], first["num_threads"]) == ("int8", "cpu", 1)
    assert main(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["results"][0]["text"] == first["text"]


def test_a_prompt_may_come_from_standard_input(tiny_model_folder: Path) -> None:
    """`echo The river |`: the shell's line break is no part of the prompt."""
    process = start(
        "generate", "--model", str(tiny_model_folder), "--max-new-tokens", "2", "--json"
    )
    output, errors = process.communicate("The river\n")
    assert process.returncode == 0, errors
    assert json.loads(output)["prompt"] == "The river"


def test_a_long_prompt_is_refused_or_cut_as_asked(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "z" * 600, "--model", str(tiny_model_folder)]
    assert main(arguments) == FAILED
    assert "600 tokens" in capsys.readouterr().err
    assert main([*arguments, "--overflow", "truncate", "--max-new-tokens", "12"]) == 0
    output = capsys.readouterr().out
    assert "The first 100 tokens of the prompt were left out." in output
    assert "[token limit, 12 tokens" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["generate", "x", "--model", "stentor-bgi"], "Did you mean 'stentor-big'"),
        (["generate", "x", "--model", "stentor-big"], "HF_HUB_OFFLINE is set"),
        (["generate", "x", "--model", "./nowhere"], "is not a folder"),
        (["generate", "", "--model", "{tiny}"], "prompt is empty"),
        (["generate", "x", "--model", "{tiny}", "--top-p", "3"], "Top p must be at most 1"),
        (["generate", "x", "--model", "{tiny}", "--min-p", "2"], "Min p must be at most 1"),
        (["generate", "x", "--model", "{tiny}", "--threads", "0"], "Threads must be at least 1"),
        (["bench", "--model", "{tiny}", "--users", "0"], "Users must be from 1 to"),
        (["bench", "--model", "{tiny}", "--threads", "0"], "Threads must be at least 1"),
        (["bench", "--model", "{tiny}", "--tokens", "9999"], "okens must be at most 512"),
    ],
)
def test_a_mistake_is_one_line_on_the_error_stream_and_code_2(
    tiny_model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main([part.format(tiny=tiny_model_folder) for part in arguments]) == FAILED == 2
    captured = capsys.readouterr()
    assert reason in captured.err.splitlines()[-1]
    assert "Traceback" not in captured.err


def test_a_model_that_fails_is_an_error_not_a_short_text(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "diverged"
    shutil.copytree(tiny_model_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors")
    assert main(["generate", "The river", "--model", str(folder), "--json"]) == FAILED
    captured = capsys.readouterr()
    assert "diverged: The model answered with NaN" in captured.err and captured.out == ""


def test_models_lists_every_known_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert "142,639,104          -  on the Hub: stas122/Stentor-Big" in table
    for spec in MODELS.values():
        assert spec.note in table
    assert main(["models", "--json"]) == 0
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert {"stentor-30m", "stentor-big", "demo-base", "demo-big"} <= set(lines)
    assert lines["stentor-30m"]["note"] == MODELS["stentor-30m"].note
    assert not lines["stentor-30m"]["is_ready"] and lines["stentor-30m"]["parameters"] == 30_419_712


def test_control_c_ends_quietly_with_130(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Many layers and texts last for seconds; the signal comes with the first line."""
    folder = write_endless(tiny_model_folder, tmp_path / "slow")
    deepen(folder, 40)
    process = start("generate", "z", *["--model", str(folder)] * 12, "--max-new-tokens", "500")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("slow (")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60.0)
    assert process.returncode == INTERRUPTED == 130
    assert [line.partition(":")[0] for line in errors.splitlines()] == ["slow"], "only its load"


def test_a_reader_that_goes_away_is_no_traceback(tiny_model_folder: Path, tmp_path: Path) -> None:
    """`python -m stentor generate ... | head -1`."""
    folder = write_endless(tiny_model_folder, tmp_path / "endless")
    with start("generate", "z", "--model", str(folder), "--max-new-tokens", "500") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read().startswith("endless: "), "its load"
        assert process.stderr.read() == ""
        assert process.wait(60.0) == PIPE_CLOSED == 141


def test_help_comes_without_the_heavy_imports() -> None:
    program = (
        "import sys\nfrom stentor.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "print(sorted({'torch', 'gradio', 'transformers'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert finished.stdout.splitlines()[-1] == "[]"
    for name in (*COMMANDS, "serve"):
        assert f"    {name} " in finished.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m stentor {name} " in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["genrate"])
    assert ended.value.code == 2
    assert "generate" in capsys.readouterr().err


def test_the_flags_of_serve_are_the_apps() -> None:
    parsed = make_parser(["serve"]).parse_args(["serve", "--port", "80", "-h", "--open"])
    assert parsed.flags == ["--port", "80", "-h", "--open"]


def test_serve_becomes_the_app_with_the_given_flags() -> None:
    process = start("serve", "--help")
    output, errors = process.communicate(timeout=120.0)
    assert process.returncode == 0, errors
    assert "--port" in output and "app.py" in output
