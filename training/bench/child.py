"""The child process of one measurement: `python -m training.bench.child MODULE < job.json`.

It imports the module that measures and nothing else, so that a peak of memory is of one loop alone.
"""

import importlib
import json
import sys
from typing import Any

from stentor.errors import INTERRUPTED, StentorError
from stentor.knobs import from_json, to_json


def main(module_name: str) -> int:
    """Measure, and print the answer as the last line."""
    try:
        module: Any = importlib.import_module(module_name)
        job = from_json(module.JOB, json.load(sys.stdin))
        answer = module.measure(job)
    except StentorError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    print(f"\n{json.dumps(to_json(answer))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
