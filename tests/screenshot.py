"""Takes the picture at the top of README.md: the demo pair answering a prompt in the Compare tab.

    python -m tests.screenshot --prompt "The old lighthouse keeper" --seed 3 --output picture.png

The real app runs as a child with a home of its own, in headless Chromium. Nothing in the picture is
retouched; the speeds in it are those of this machine at that moment. A side that fails, a text that
does not fit, a message over the page or an error in its console: then there is no picture.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

# Of a module Python knows the root of the project only; pytest adds this folder by itself.
sys.path.append(str(Path(__file__).resolve().parent))

import pytest
from browser_page import Visit, find_chromium, visit
from load_server import app_process
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Page

from stentor.engine.sampling import SamplingSettings
from stentor.errors import OptionError, StentorError
from stentor.home import assets_folder
from stentor.knobs import check

PROMPT = "The old lighthouse keeper opened the door and"
# The window in pixels of the page, and how many of the picture each of them has.
WINDOW, DENSITY = {"width": 1280, "height": 780}, 2
MARGIN = 10  # below the panes: half of the way to what comes next
LOG_LINES = 20
SIDES = ("left", "right")
ARE_LOADED = """() => [...document.querySelectorAll("#panes .pane")].every(pane =>
  pane.dataset.state === "error" || pane.querySelector(".pane-meta").innerText)"""
ARE_OVER = """() => [...document.querySelectorAll("#panes .pane")].every(pane =>
  ["done", "error"].includes(pane.dataset.state))"""
IS_CUT = "body => body.scrollHeight > body.clientHeight"


class PictureError(StentorError):
    """There is no picture that one would show; the message says why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the picture, or end with a message."""
    flags = read_flags(arguments)
    try:
        check_flags(flags)
        picture = take_picture(flags.prompt, flags.seed)
        flags.output.write_bytes(picture)
    except (StentorError, OSError) as error:
        raise SystemExit(str(error)) from error
    print(f"{flags.output}: {len(picture):,} bytes")


def read_flags(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    default = assets_folder() / "screenshot.png"
    parser.add_argument("--output", type=Path, default=default, help="a .png file")
    parser.add_argument("--prompt", default=PROMPT, help="what the models continue (%(default)s)")
    seed = SamplingSettings().seed
    parser.add_argument("--seed", type=int, default=seed, help="of both sides (%(default)s)")
    return parser.parse_args(arguments)


def check_flags(flags: argparse.Namespace) -> None:
    """Refuse at once what would be refused after a minute.

    Raises:
        OptionError: says what was given.
    """
    check(SamplingSettings(seed=flags.seed))
    if not flags.prompt.strip():
        raise OptionError("--prompt is empty. Give the beginning of a sentence.")
    if flags.output.suffix != ".png":
        raise OptionError(f"--output must end with .png; got {flags.output}.")
    if not flags.output.resolve().parent.is_dir():
        raise OptionError(f"The folder of --output {flags.output} does not exist. Make it first.")


def take_picture(prompt: str, seed: int) -> bytes:
    """Return a PNG of the page from its top to below the panes, in light colours.

    Raises:
        PictureError: app, browser or page did not get as far, or the picture would be flawed.
    """
    try:
        find_chromium()
        with (
            tempfile.TemporaryDirectory(prefix="stentor-screenshot-") as home,
            running_app(Path(home)) as url,
            visit(
                url, viewport=WINDOW, device_scale_factor=DENSITY, color_scheme="light"
            ) as visitor,
        ):
            generate(visitor.page, prompt, seed)
            return picture_of(visitor)
    except (pytest.skip.Exception, pytest.fail.Exception) as error:  # of find_chromium
        raise PictureError(str(error)) from error
    except BrowserError as error:
        raise PictureError(f"The page did not do what was expected: {error}") from error


@contextmanager
def running_app(home: Path) -> Iterator[str]:
    """Start app.py with the demo pair and lend its address.

    Raises:
        PictureError: it ended, or did not serve its page in time.
    """
    with ExitStack() as opened:
        try:
            url, _ = opened.enter_context(app_process(home))
        except AssertionError as error:
            said = (home / "app.log").read_text(encoding="utf-8").splitlines()[-LOG_LINES:]
            lines = "\n".join(said) or "(nothing)"
            raise PictureError(f"app.py did not serve its page. It said last:\n{lines}") from error
        yield url


def generate(page: Page, prompt: str, seed: int) -> None:
    """Let both models continue the prompt, and wait until both have ended.

    Raises:
        PictureError: a side failed.
    """
    page.wait_for_function(ARE_LOADED)
    refuse_failures(page)
    set_seed(page, seed)
    page.fill("#prompt textarea", prompt)
    page.click("#generate")
    page.wait_for_function("() => document.querySelector('#panes .pane-prompt').innerText")
    page.wait_for_function(ARE_OVER)
    refuse_failures(page)


def set_seed(page: Page, seed: int) -> None:
    """Choose the seed as a visitor does, and close the settings again."""
    settings = page.locator("#settings").get_by_role("button").first
    settings.click()
    field = page.get_by_label("Seed", exact=True).locator("visible=true").first
    field.fill(str(seed))
    field.press("Enter")
    page.wait_for_function(
        "ending => document.querySelector('#match-badge').innerText.trim().endsWith(ending)",
        arg=f"seed {seed}",
    )
    settings.click()
    field.wait_for(state="hidden")


def refuse_failures(page: Page) -> None:
    """Raise what a pane says has gone wrong."""
    for side in SIDES:
        pane = page.locator(f"#pane-{side} .pane")
        if pane.get_attribute("data-state") == "error":
            title, reason = (pane.locator(part).inner_text() for part in (".pane-title", "p"))
            raise PictureError(f"The {side} side failed ({title}): {reason}")


def picture_of(visitor: Visit) -> bytes:
    """Return the page as it is now, down to below the panes.

    Raises:
        PictureError: something is in the way, cut off, or wrong in the console.
    """
    page = visitor.page
    for side in SIDES:
        if page.locator(f"#pane-{side} .pane-body").evaluate(IS_CUT):
            raise PictureError(f"The {side} text is longer than its pane. Try another seed.")
    toast = page.get_by_test_id("toast-body")
    if toast.count():
        raise PictureError(f"A message covers the page: {toast.first.inner_text()}")
    page.mouse.move(0, 0)  # off the button, which is darker below a mouse
    page.evaluate("() => document.activeElement.blur()")
    page.evaluate("() => document.fonts.ready.then(() => true)")
    if visitor.problems:
        raise PictureError("The page has errors:\n" + "\n".join(visitor.problems))
    panes = page.locator("#panes").bounding_box()
    assert panes is not None
    height = panes["y"] + panes["height"] + MARGIN
    return page.screenshot(
        clip={"x": 0, "y": 0, "width": WINDOW["width"], "height": height},
        full_page=True,
        animations="disabled",
        caret="hide",
    )


if __name__ == "__main__":
    main()
