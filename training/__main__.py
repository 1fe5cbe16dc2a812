"""`python -m training`: runs and recipes, single checkpoints, and what can be measured.

Only the standard library is imported here; what needs torch is imported by the verb that needs it.
"""

import argparse
import sys

from stentor.errors import INTERRUPTED, StentorError
from training.bench import command as bench
from training.control_verbs import add_control_verbs
from training.growth_comparison import command as compare_growth
from training.hand_over import command as hand_over
from training.model_verbs import add_model_verbs
from training.preflight import command as preflight
from training.run_verbs import add_run_verbs


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    parsed = make_parser().parse_args(arguments)
    try:
        return int(parsed.verb(parsed))
    except StentorError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; no verb is run and nothing heavy is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m training", description="Grow and pre-train Stentor models."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    json_flag = argparse.ArgumentParser(add_help=False)
    json_flag.add_argument("--json", action="store_true", help="print JSON for a machine")
    add_run_verbs(verbs, json_flag)
    add_control_verbs(verbs, json_flag)
    add_model_verbs(verbs, json_flag)

    verb = verbs.add_parser("check", help="all that would go wrong with a run, before it starts")
    preflight.add_check_flags(verb)
    verb.set_defaults(verb=preflight.run_check)

    verb = verbs.add_parser("rehearse", help="a few real steps: hours, energy, disk and memory")
    preflight.add_rehearse_flags(verb)
    verb.set_defaults(verb=preflight.run_rehearsal)

    verb = verbs.add_parser("hand-over", help="a run as a model folder with a card, for others")
    hand_over.add_flags(verb)
    verb.set_defaults(verb=hand_over.run)

    verb = verbs.add_parser("compare-growth", help="ways to grow, side by side on the same text")
    compare_growth.add_flags(verb)
    verb.set_defaults(verb=compare_growth.run)

    verb = verbs.add_parser("bench", help="how fast this machine trains, and beside what")
    bench.add_flags(verb)
    verb.set_defaults(verb=bench.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
