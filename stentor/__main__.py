"""`python -m stentor generate | score | eval | quality | models | bench | serve`.

Each command is a module with `add_<name>_arguments(parser)` and `run_<name>(arguments)`; only the
one that is asked for is imported, so that help comes quickly.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from stentor import __version__
from stentor.errors import INTERRUPTED, StentorError

FAILED = 2
PIPE_CLOSED = 141  # what a shell reports after a reader such as `head` has gone


@dataclass(frozen=True)
class Command:
    """Where a command lives and what its help says."""

    module: str
    help: str


COMMANDS: dict[str, Command] = {
    "generate": Command("stentor.commands", "continue a prompt with one or more models"),
    "score": Command("stentor.score", "say how likely each token of a text is to a model"),
    "quality": Command("stentor.quality", "compare a precision with fp32 on held-out text"),
    "models": Command("stentor.commands", "list the known models and where they are"),
    "bench": Command("stentor.bench", "measure load time, first token and tokens per second"),
    "eval": Command("stentor.evaluation", "run a category of prompts through two models"),
}
SERVE_HELP = "start the playground; flags go to app.py"


def main(given: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a StentorError becomes one line and code 2."""
    arguments = list(sys.argv[1:] if given is None else given)
    for stream in (sys.stdout, sys.stderr):
        # A model may write any character; a terminal without it must not end the command.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        parsed = make_parser(arguments[:1]).parse_args(arguments)
        code: int = parsed.run(parsed)
        return code
    except StentorError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; there is nobody to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def make_parser(wanted: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """Return the parser of all commands, with the flags of those that are wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m stentor", description="Two small language models, side by side."
    )
    parser.add_argument("--version", action="version", version=f"stentor {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")
    chosen = set(wanted)
    for name, command in COMMANDS.items():
        child = commands.add_parser(name, help=command.help, description=command.help.capitalize())
        if name in chosen:
            module = import_module(command.module)
            getattr(module, f"add_{name}_arguments")(child)
            child.set_defaults(run=getattr(module, f"run_{name}"))
    # No character begins a flag of `serve` itself: all of them, --help too, are the app's.
    serve = commands.add_parser("serve", help=SERVE_HELP, prefix_chars="\0", add_help=False)
    serve.add_argument("flags", nargs="*")
    serve.set_defaults(run=_run_serve)
    return parser


def _run_serve(arguments: argparse.Namespace) -> int:
    """Become the app: same process, same terminal, and gradio is never imported here."""
    app = Path(__file__).resolve().parent.parent / "app.py"
    if not app.is_file():
        raise StentorError(f"{app} is missing. Run this from a complete copy of the project.")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, str(app), *arguments.flags])


if __name__ == "__main__":
    sys.exit(main())
