"""The README is true: its commands are the ones CI runs, its tree is the tree, its flags parse."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import stentor.__main__
import training.__main__

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = (".ci", "assets", "stentor", "tests", "training")
# Folders whose files are all of one kind; the tree names the folder only.
SUMMARISED = ("assets/models/", "tests/", "stentor/prompts/")


def command(name: str) -> str:
    shown = subprocess.run(
        [ROOT / ".ci" / "readme-command", name], capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


def test_ci_runs_both_commands_as_they_stand() -> None:
    assert "requirements.txt" in command("start")
    assert command("start").endswith("python app.py")
    assert "tests/requirements.txt" in command("test")
    assert command("test").endswith("python -m pytest")
    assert ".ci/readme-command test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".ci/start-once" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    start_once = (ROOT / ".ci" / "start-once").read_text(encoding="utf-8")
    assert ".ci/readme-command start" in start_once


def tree_in_readme() -> set[str]:
    """Return the paths of the README's file tree (two spaces of indentation per level)."""
    block = re.search(r"```text tree\n(.*?)```", README, re.DOTALL)
    assert block is not None
    paths = set()
    folders: list[str] = []
    for line in block.group(1).splitlines():
        level = (len(line) - len(line.lstrip())) // 2
        names, remark = re.split(r"\s{2,}", line.strip(), maxsplit=1)
        assert remark, f"no remark for {names}"
        folders = folders[:level]
        for name in names.split():
            paths.add("".join(folders) + name)
        if names.endswith("/"):
            folders.append(names)
    return paths


def tree_on_disk() -> set[str]:
    paths = {"app.py", "requirements.txt", "README.md", "pyproject.toml"}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_dir() or "__pycache__" in name or name.endswith("__init__.py"):
                continue
            if not name.startswith(SUMMARISED):
                paths.add(name)
    return paths


def test_the_file_tree_is_true() -> None:
    shown = {path for path in tree_in_readme() if not path.endswith("/")}
    shown = {path for path in shown if not path.startswith(SUMMARISED)}
    shown -= {path for path in shown if path.endswith("__init__.py")}
    assert shown == tree_on_disk()


def readme_commands() -> list[str]:
    blocks = re.findall(r"```sh[^\n]*\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"python -m (stentor|training)\b", line)]


@pytest.mark.parametrize("line", readme_commands())
def test_the_commands_of_the_readme_parse(line: str) -> None:
    package, _, rest = line.partition("python -m ")[2].partition(" ")
    arguments = shlex.split(rest, comments=True)
    parsers = {"stentor": stentor.__main__.make_parser, "training": training.__main__.make_parser}
    parsers[package]().parse_args(arguments)  # exits where a verb or flag does not exist
