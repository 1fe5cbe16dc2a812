"""The verbs for one checkpoint, outside a run: expand, export and validate.

Only the standard library is imported here; the work needs torch and is in single.py.
"""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from stentor.knobs import add_arguments
from training.settings import ExpandSettings

MODEL_HELP = "a known model, a folder, or run:ID/CHECKPOINT"
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_model_verbs(verbs: Verbs, json_flag: argparse.ArgumentParser) -> None:
    """Add the verbs to the command line."""
    verb = verbs.add_parser("expand", parents=[json_flag], help="grow one checkpoint")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("output", type=Path, help="a folder that does not exist yet")
    verb.add_argument("--seed", type=int, default=0, help="seed of the new weights (default 0)")
    add_arguments(verb, ExpandSettings)
    verb.set_defaults(verb=_single("expand_model"))

    verb = verbs.add_parser("export", help="copy a checkpoint without trainer state")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("output", type=Path, help="a folder that does not exist yet")
    verb.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    verb.set_defaults(verb=_single("export_model"))

    verb = verbs.add_parser("validate", parents=[json_flag], help="a model's loss on text files")
    verb.add_argument("model", help=MODEL_HELP)
    verb.add_argument("files", nargs="+", metavar="FILE", help=".txt, .jsonl, .parquet or a folder")
    verb.add_argument(
        "--max-windows",
        type=int,
        default=64,
        help="most windows of 512 tokens to measure on (default 64)",
    )
    verb.add_argument(
        "--held-out",
        action="store_true",
        help="measure only on the documents that no stage trains on, about one in 32",
    )
    verb.set_defaults(verb=_single("validate_model"))


def _single(name: str) -> Callable[[argparse.Namespace], int]:
    """Return a verb that imports what needs torch only when it is run; --help stays instant."""

    def run(parsed: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module("training.single"), name)(parsed))

    return run
