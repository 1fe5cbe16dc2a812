"""`python -m training` as a user types it; what costs seconds is done once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipe import PATIENCE_SECONDS, create, tiny_recipe, wait_for_step
from transformers import AutoModelForCausalLM

from stentor.home import runs_folder
from stentor.runs import (
    Run,
    Status,
    append_event,
    create_run,
    current_status,
    process_start,
    read_recipe,
    read_status,
    write_status,
)
from training.__main__ import main
from training.recipe import recipe_from_json, recipe_to_json, with_text
from training.recipes import RECIPES, find_recipe

ROOT = Path(__file__).resolve().parent.parent
VERBS = (
    "list",
    "show",
    "run",
    "new",
    "resume",
    "stop",
    "status",
    "save",
    "sample",
    "delete",
    "queue",
    "check",
    "rehearse",
    "hand-over",
    "expand",
    "export",
    "validate",
    "compare-growth",
    "bench",
)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "training", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, output, errors


def training(*arguments: str) -> tuple[int, str, str]:
    return finish(start(*arguments))


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # noqa: ANN401
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def run() -> Run:
    return create_run(recipe_to_json(find_recipe("practice")), "practice")


@pytest.fixture(scope="module")
def stopped_twice(
    tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Run, list[tuple[int, str, str]]]]:
    """Follow a real run twice: stopped by `stop`, resumed, stopped by Ctrl-C in the follower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STENTOR_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("SPACE_ID", raising=False)
        run = create(tiny_recipe(tiny_model_folder))
        answers = []
        follower = start("resume", run.id)
        wait_for_step(run, "general", 3)
        answers.append(training("stop", run.id))
        answers.append(finish(follower))
        offset = run.events_file.stat().st_size
        follower = start("resume", run.id)
        wait_for_step(run, "story", 2, offset)
        os.kill(follower.pid, signal.SIGINT)
        answers.append(finish(follower))
        yield run, answers


def test_help_of_every_verb_needs_no_torch() -> None:
    """The --help of a command line that imports torch takes seconds."""
    script = (
        "import sys\n"
        "from training.__main__ import main\n"
        f"for verb in {VERBS}:\n"
        "    try:\n"
        "        main([verb, '--help'])\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        "main(['list'])\n"
        "main(['show', 'practice'])\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'gradio'} & set(sys.modules)))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.endswith("[]\n")
    for verb in VERBS:
        assert f"usage: python -m training {verb}" in printed.stdout


def test_list_as_a_machine_reads_it(run: Run) -> None:
    code, output, errors = training("list", "--json")
    assert (code, errors) == (0, "")
    values = json.loads(output)
    assert [recipe["name"] for recipe in values["recipes"]] == list(RECIPES)
    assert [(found["run"], found["state"]) for found in values["runs"]] == [(run.id, "created")]


def test_list_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "none yet; start one with: python -m training run practice" in capsys.readouterr().out
    create_run({}, "mine")
    assert main(["list"]) == 0
    assert "-mine-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "practise"], "No recipe is called 'practise'. Did you mean 'practice'?"),
        (["run", "practise"], "No recipe is called 'practise'. Did you mean 'practice'?"),
        (["run", "."], "is no run folder (it has no recipe.json)"),
        (["run", "practice", "--seed", "-1"], "Seed must be at least 0; got -1."),
        (["show", "practice", "--text", "expand=x.txt"], "No stage that reads text is called"),
        (["resume", "nowhere"], "There is no run 'nowhere'"),
        (["resume", "../x"], "is not a run id"),
        (["resume", "nowhere", "--queue"], "There is no run 'nowhere'"),
        (["resume", ".", "--processes", "2"], "change a run: name it by its id"),
        (["run", ".", "--queue"], "it can neither wait in line nor be detached"),
        (["run", ".", "--seed", "3"], "is a run; its recipe cannot be changed"),
        (["save", "nowhere"], "There is no run 'nowhere'"),
        (["sample", "nowhere"], "There is no run 'nowhere'"),
        (["delete", "nowhere"], "There is no run 'nowhere'"),
        (["delete", ".."], "is not a run id"),
        (["queue", "--move", "nowhere", "1"], "There is no run 'nowhere'"),
        (["queue", "--remove", "nowhere"], "There is no run 'nowhere'"),
        (["stop", "nowhere"], "There is no run 'nowhere'"),
        (["status", "nowhere"], "There is no run 'nowhere'"),
        (["status"], "There is no run yet; start one with: python -m training run practice"),
        (["expand", "demo-bse", "out"], "Did you mean 'demo-base'?"),
        (["expand", "demo-base", "out", "--num-layers", "0"], "Num layers must be at least 1"),
        (["export", "run:a/b", "out"], "There is no run 'a'"),
        (
            ["run", "card"],
            "Stage narrative reads your own text and has none. Give text with --text",
        ),
        (
            ["run", "card", "--text", "narrative=/nope/typo.txt"],
            "Stage narrative: /nope/typo.txt does not exist. Give text with --text STAGE=FILE",
        ),
        (["validate", "run:a/b", "x.txt"], "There is no run 'a'"),
        (["validate", "demo-base", "x.txt", "--max-windows", "0"], "must be at least 1; got 0"),
    ],
)
def test_a_bad_name_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not runs_folder().exists(), "nothing is left behind"


def test_a_bad_name_ends_the_real_process_with_2() -> None:
    code, output, errors = training("resume", "nowhere")
    assert (code, output) == (2, "")
    assert errors.startswith("error: There is no run 'nowhere'") and errors.count("\n") == 1


def test_show_a_recipe_with_its_changes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    values = printed_json(capsys, "show", "card", "--budget", "tokens", "--seed", "7")
    assert values["seed"] == 7
    assert values["stages"][1]["settings"]["budget"] == "tokens"
    odd, all_text = tmp_path / "a=b.txt", tmp_path / "all.txt"
    values = printed_json(
        capsys, "show", "practice", "--text", f"story={odd}".replace("story", "narrative"),
        "--text", str(all_text),
    )  # fmt: skip
    expected = with_text(
        with_text(find_recipe("practice"), (str(all_text),)), (str(odd),), "narrative"
    )
    assert recipe_from_json(values) == expected
    # A path with `=` in it is still a path.
    values = printed_json(capsys, "show", "practice", "--text", str(odd))
    assert recipe_from_json(values) == with_text(find_recipe("practice"), (str(odd),))


def test_show_for_people(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    assert main(["show", "card"]) == 0
    text = capsys.readouterr().out
    assert "9,500 steps of 128 windows = 622,592,000 tokens (budget: steps" in text
    assert "Note: The card's steps and tokens do not agree" in text
    assert main(["show", run.id]) == 0
    assert capsys.readouterr().out.startswith("practice: Practice on a laptop")


def test_a_second_run_is_refused_before_a_folder_is_made(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refused start once left an empty run in the list."""
    write_status(run, Status(state="starting", heartbeat=9e9))
    assert main(["run", "practice"]) == 2
    assert f"Run {run.id} is still going" in capsys.readouterr().err
    assert main(["resume", run.id]) == 2
    monkeypatch.setenv("SPACE_ID", "somebody/space")
    assert main(["run", "practice"]) == 2
    assert "switched off on a public Space" in capsys.readouterr().err
    assert [path.name for path in runs_folder().iterdir()] == [run.id]


def test_what_is_over_is_neither_stopped_nor_resumed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(run, Status(state="finished"))
    assert main(["stop", run.id]) == 2
    assert main(["stop", run.id, "--now"]) == 2
    assert main(["resume", run.id]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == lines[1] == f"error: Run {run.id} is not going."
    assert lines[2] == f"error: Run {run.id} is finished; there is nothing to resume."
    assert not run.stop_file.exists()


@pytest.mark.parametrize("verb", ["stop", "save", "sample"])
def test_only_a_run_that_goes_can_be_asked_for_something(
    run: Run, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wishes = {"stop": run.stop_file, "save": run.save_file, "sample": run.sample_file}
    assert main([verb, run.id]) == 2
    assert capsys.readouterr().err == f"error: Run {run.id} is not going.\n"
    write_status(run, Status("running", os.getpid(), process_start(os.getpid())))
    assert main([verb, run.id]) == 0
    assert capsys.readouterr().out.startswith("Asked ")
    assert [name for name, path in wishes.items() if path.exists()] == [verb]


def test_a_run_is_deleted_after_a_yes_only(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.checkpoints_folder / "general-000004").mkdir()
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return answers.pop()

    monkeypatch.setattr("builtins.input", answer)
    answers = ["", "n", "maybe"]
    for _ in range(3):
        assert main(["delete", run.id]) == 1
    assert asked[0] == f"Delete {run.id} (created, 1 checkpoint) for good? [y/N] "
    assert "Nothing was deleted." in capsys.readouterr().out
    answers = ["y"]
    assert main(["delete", run.id]) == 0
    assert not run.folder.exists()

    going = create_run({}, "going")
    write_status(going, Status("running", os.getpid(), process_start(os.getpid())))
    assert main(["delete", going.id, "--yes"]) == 2
    assert "Stop it first" in capsys.readouterr().err
    write_status(going, Status("stopped"))
    assert main(["delete", going.id, "--yes"]) == 0
    assert len(asked) == 4, "nobody is asked about what is refused or settled"


def test_a_script_that_cannot_answer_deletes_nothing(run: Run) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "training", "delete", run.id],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (1, "")
    assert process.stdout.endswith("Nothing was deleted.\n")
    assert run.folder.exists()


def test_the_line_of_runs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["queue"]) == 0
    assert "No run is in line. To put one there" in capsys.readouterr().out
    write_status(run, Status("running", os.getpid(), process_start(os.getpid())))
    for seed in ("1", "2"):
        assert main(["run", "practice", "--queue", "--seed", seed]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = (line.partition(" in ")[0].removeprefix("Run ") for line in lines[::2])
    assert lines[1] == f"{first}: number 1 in line for all devices, after {run.id}"
    assert lines[3] == f"{second}: number 2 in line for all devices, after {run.id}, {first}"
    assert main(["queue", "--move", second, "-1"]) == 0
    assert capsys.readouterr().out.startswith(f"{second}: number 1 in line")
    (one, two) = printed_json(capsys, "queue")
    assert (one["run"], one["state"], one["waits_for"]) == (second, "queued", [run.id])
    assert two["waits_for"] == [run.id, second]
    assert main(["status", second]) == 0
    assert "place in line" in capsys.readouterr().out
    assert main(["queue", "--start"]) == 0, "nothing to start yet is no mistake"
    assert main(["queue", "--remove", second]) == 0
    assert capsys.readouterr().out.endswith(
        f"{first}: number 1 in line for all devices, after {run.id}\n"
    )
    assert main(["queue", "--move", first, "soon"]) == 2
    assert "N must be a whole number; got 'soon'" in capsys.readouterr().err


def test_resume_writes_into_the_recipe_what_it_is_to_use_from_now_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of two processes could not go on where there was one GPU left."""
    going = create_run(recipe_to_json(find_recipe("practice")), "going")
    write_status(going, Status("running", os.getpid(), process_start(os.getpid())))
    append_event(run, "metrics", stage="general", step=4)
    write_status(run, Status("stopped", stage="general", step=4))
    flags = ["--processes", "1", "--devices", "0"]
    assert main(["resume", run.id, "--queue", *flags]) == 0
    assert "number 1 in line for GPU 0" in capsys.readouterr().out
    recipe = recipe_from_json(read_recipe(run))
    assert (recipe.num_processes, recipe.devices) == (1, "0")
    assert replace(recipe, num_processes=None, devices="") == find_recipe("practice")
    assert main(["resume", run.id, "--processes", "0"]) == 2
    assert "Num processes must be at least 1; got 0" in capsys.readouterr().err
    write_status(run, Status("running", os.getpid(), process_start(os.getpid())))
    assert main(["resume", run.id, *flags]) == 2
    assert "already going" in capsys.readouterr().err


def test_status_of_a_dead_run_says_where_with_its_last_lines_and_how_to_go_on(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(run, Status("running", 1 << 30, "1", stage="general", step=7))
    run.log_file.write_text("first line\n" * 20 + "CUDA error: out of memory\n")
    assert main(["status", run.id]) == 0
    text = capsys.readouterr().out
    assert "Died at step 7 of general: the process ended without a word." in text
    assert text.endswith(
        f"  CUDA error: out of memory\nTo go on: python -m training resume {run.id}\n"
    )
    assert text.count("first line") == 7


def test_stop_and_ctrl_c_save_and_end_the_run(
    stopped_twice: tuple[Run, list[tuple[int, str, str]]],
) -> None:
    run, (asked, first, second) = stopped_twice
    assert asked == (0, "Asked to save and stop after the current step.\n", "")
    for code, output, errors in (first, second):
        assert (code, errors) == (0, "")
        assert output.startswith(f"Run {run.id} in {run.folder}\n")
        ending = f"Run {run.id}: stopped\nTo go on: python -m training resume {run.id}\n"
        assert output.endswith(ending)
    assert "general 1/12 loss" in first[1]
    assert "general 1/12 loss" not in second[1], "a resumed log is followed from where it was"
    assert "Asked to save and stop" in second[1]


def test_status_as_a_machine_and_as_people_read_it(
    stopped_twice: tuple[Run, list[tuple[int, str, str]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, _ = stopped_twice
    monkeypatch.setenv("STENTOR_HOME", str(run.folder.parent.parent))
    status = read_status(run)
    newest = f"run:{run.id}/story-{status.step:06d}"
    values = printed_json(capsys, "status")
    assert values == printed_json(capsys, "status", run.id)
    assert (values["run"], values["state"], values["stage"]) == (run.id, "stopped", "story")
    assert (values["checkpoint"], values["step"]) == (newest, status.step)
    assert values["finished_stages"] == ["expand", "general"]
    assert main(["status"]) == 0
    assert f"checkpoint       {newest}\n" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_card_on_a_cpu_fails_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "stories.txt").write_text("Once.")
    code, output, _ = training("run", "card", "--text", f"narrative={tmp_path / 'stories.txt'}")
    assert code == 2
    reason = "and this machine has no CUDA GPU"
    assert "Failed: Recipe card trains on" in output and reason in output
    (folder,) = runs_folder().iterdir()
    status = current_status(Run(folder))
    assert status.state == "failed" and reason in str(status.error)
    assert output.splitlines()[-1] == f"Run {folder.name}: failed"
    assert output.count(reason) == 1, "said in the log, so not said again"


def test_expand_then_export(
    tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown, small = tmp_path / "grown", tmp_path / "small"
    sizes = ("--hidden-size=64", "--intermediate-size=128", "--num-layers=3", "--num-heads=4")
    code, output, errors = training("expand", str(tiny_model_folder), str(grown), "--json", *sizes)
    assert code == 0, errors
    report = json.loads(output)
    assert report["is_exact"] and report["parameters_after"] > report["parameters_before"]
    assert json.loads((grown / "growth.json").read_text()) == report

    assert main(["export", str(grown), str(small), "--dtype", "bfloat16"]) == 0
    assert "bfloat16" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(small)
    assert model.dtype == torch.bfloat16
    assert model.num_parameters() == report["parameters_after"]
    assert json.loads((small / "growth.json").read_text()) == report

    for verb, source in (("expand", tiny_model_folder), ("export", grown)):
        assert main([verb, str(source), str(small)]) == 2
        assert "exists already" in capsys.readouterr().err


def test_new_makes_a_folder_that_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "practice", "--processes", "2"]) == 0
    run = Run(Path(capsys.readouterr().out.strip()))
    assert current_status(run).state == "created"
    assert recipe_from_json(read_recipe(run)).num_processes == 2


def test_flags_that_a_run_would_not_heed_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = create_run(recipe_to_json(find_recipe("practice")), "mine")
    assert main(["show", run.id]) == 0
    assert f"python -m training show {run.id} --json" in capsys.readouterr().out
    for flags in (["--seed", "0"], ["--set", "general.num_steps=3"], ["--budget", "steps"]):
        assert main(["show", run.id, *flags]) == 2
        assert "is a run; its recipe cannot be changed" in capsys.readouterr().err


def test_status_for_people_leaves_out_what_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    create_run(recipe_to_json(find_recipe("practice")), "mine")
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    assert "None" not in text and "[]" not in text
    assert "state            created" in text
