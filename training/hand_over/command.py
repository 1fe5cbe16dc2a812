"""`python -m training hand-over`: a run as a model folder, a GGUF file, a repository of the Hub."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.home import models_folder
from stentor.knobs import add_arguments, from_arguments
from stentor.runs import open_run, write_json
from training.hand_over.settings import HandOverSettings, check_settings


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `run` reads."""
    parser.add_argument("run_id", help="a finished run")
    parser.add_argument(
        "output",
        nargs="?",
        type=Path,
        help="a folder that does not exist yet (default: models/RUN_ID where runs are kept)",
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="one of its checkpoints instead of the last"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write where it is as JSON")
    add_arguments(parser, HandOverSettings)


def run(parsed: argparse.Namespace) -> int:
    """Write the folder, push it if asked to, and say where it is; return the exit code."""
    settings = check_settings(from_arguments(HandOverSettings, parsed))
    # They need torch, and --help must not.
    folder, story_module, hub = map(_part, ("folder", "story", "hub"))
    story = story_module.read_story(open_run(parsed.run_id), parsed.checkpoint)
    output = (parsed.output or models_folder() / _default_name(parsed)).resolve()
    if output.exists():
        raise OptionError(f"{output} exists already; name another folder, or move that one away.")
    if settings.push:
        hub.check_can_push(settings.push)
    written = folder.write_folder(story, output, settings)
    for path in sorted(output.iterdir()):
        print(f"  {path.name:36} {path.stat().st_size:>14,} bytes")
    print(f"{output}: {written.num_parameters:,} parameters, {written.revision}")
    address = None
    if settings.push:
        address = hub.push(output, settings.push, is_private=not settings.public)
        print(address)
    if parsed.report:
        write_json(parsed.report, {"folder": str(output), "address": address})
    return 0


def _default_name(parsed: argparse.Namespace) -> str:
    return f"{parsed.run_id}-{parsed.checkpoint}" if parsed.checkpoint else str(parsed.run_id)


def _part(name: str) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module(f"training.hand_over.{name}")
