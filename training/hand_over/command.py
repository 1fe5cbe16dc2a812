"""`python -m training hand-over`: a run as a model folder, a GGUF file, a repository of the Hub."""

import argparse
import importlib
from pathlib import Path
from typing import Any

from stentor.errors import OptionError
from stentor.home import home
from stentor.runs import open_run

DTYPES = ("float16", "bfloat16", "float32")
GGUF_KINDS = ("F32", "F16", "Q8_0")


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
    parser.add_argument("--name", help="of the model, for its card (default: the recipe's title)")
    parser.add_argument(
        "--licence", default="other", help="of the weights, as the Hub names it (default: other)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument(
        "--gguf", choices=GGUF_KINDS, help="write a GGUF file for llama.cpp as well"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload the folder to the Hub; needs HF_TOKEN in the environment",
    )
    parser.add_argument("--public", action="store_true", help="a new repository is open to all")


def run(parsed: argparse.Namespace) -> int:
    """Write the folder, push it if asked to, and say where it is; return the exit code."""
    # They need torch, and --help must not.
    folder, story_module, hub = map(_part, ("folder", "story", "hub"))
    run_folder = open_run(parsed.run_id)
    story = story_module.read_story(run_folder, parsed.checkpoint)
    output = (parsed.output or home() / "models" / _default_name(parsed)).resolve()
    if output.exists():
        raise OptionError(f"{output} exists already; name a folder that does not.")
    if parsed.push:
        hub.check_can_push(parsed.push)
    written = folder.write_folder(
        story,
        output,
        name=parsed.name or story.recipe.title,
        licence=parsed.licence,
        dtype=parsed.dtype,
        gguf=parsed.gguf,
    )
    for path in sorted(output.iterdir()):
        print(f"  {path.name:36} {path.stat().st_size:>14,} bytes")
    print(f"{output}: {written.num_parameters:,} parameters, {written.revision}")
    if parsed.push:
        print(hub.push(output, parsed.push, is_private=not parsed.public))
    return 0


def _default_name(parsed: argparse.Namespace) -> str:
    return f"{parsed.run_id}-{parsed.checkpoint}" if parsed.checkpoint else str(parsed.run_id)


def _part(name: str) -> Any:  # noqa: ANN401 - a module
    return importlib.import_module(f"training.hand_over.{name}")
