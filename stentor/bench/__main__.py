"""`python -m stentor.bench` is `python -m stentor bench`."""

import sys

from stentor.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
