"""The playground's entry point: read the flags, build the page, serve it.

    python app.py [--host 127.0.0.1] [--port 7860] [--pair auto] [--precision auto] [--no-training]

A Hugging Face Space runs this file as it is: SPACE_ID is set there, training is then always off.
"""

import argparse
import os
from contextlib import closing

from stentor.errors import StentorError
from stentor.knobs import add_arguments, from_arguments
from stentor.models import PAIRS
from stentor.store import EngineOptions
from stentor.ui import build_app, launch_options
from stentor.ui.context import AUTO, make_context

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def read_flags() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    host = "0.0.0.0" if os.environ.get("SPACE_ID") else LOOPBACK[0]
    parser.add_argument("--host", default=host, help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default %(default)s)")
    pair_help = "models shown first; auto: the demo pair, and the real one is fetched meanwhile"
    parser.add_argument("--pair", default=AUTO, choices=(AUTO, *PAIRS), help=pair_help)
    who_help = "may visitors start training? auto: only when the host is this machine alone"
    parser.add_argument("--training", default=AUTO, choices=(AUTO, "on", "off"), help=who_help)
    off = parser.add_argument("--no-training", dest="training", action="store_const", const="off")
    off.help = "the same as --training off: runs are shown, nobody can start or change one"
    add_arguments(parser, EngineOptions)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    return parser.parse_args()


def main() -> None:
    """Serve the playground until it is interrupted."""
    flags = read_flags()
    place = {"server_name": flags.host, "server_port": flags.port, "inbrowser": flags.open}
    try:
        context = make_context(
            flags.pair,
            flags.training,
            is_private=flags.host in LOOPBACK,
            options=from_arguments(EngineOptions, flags),
        )
        with closing(context):
            context.preload()
            context.watch_runs()
            build_app(context).launch(**place, **launch_options(context.training_refusal))
    except StentorError as error:
        raise SystemExit(str(error)) from error
    except OSError as error:
        raise SystemExit(f"Cannot serve at {flags.host}:{flags.port} (--port): {error}") from error


if __name__ == "__main__":
    main()
