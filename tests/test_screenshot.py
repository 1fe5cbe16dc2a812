"""The script that takes the README's picture refuses at once what it could not finish.

Whether it takes one is seen by running it; the page itself is tested in test_browser.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import screenshot

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "no-such-folder/picture.png"], "The folder of --output no-such-folder"),
        (["--output", "picture.jpg"], "--output must end with .png; got picture.jpg."),
        (["--prompt", " "], "--prompt is empty."),
        (["--seed", "-1"], "Seed must be at least 0; got -1."),
    ],
)
def test_a_wrong_flag_is_refused_before_anything_starts(flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        screenshot.main(flags)


def test_it_runs_as_a_module() -> None:
    """Python then knows the root of the project only, and what it imports lies in tests/ too."""
    command = [sys.executable, "-m", "tests.screenshot", "--output", "no-such-folder/picture.png"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 1
    assert finished.stderr.startswith("The folder of --output no-such-folder")


def test_an_app_that_does_not_start_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with (
        pytest.raises(screenshot.PictureError, match=r"app.py did not serve its page"),
        screenshot.running_app(tmp_path),
    ):
        pytest.fail("there is no app")
