"""How fast this machine is: `python -m stentor bench`, or `python -m stentor.bench`.

command.py            flags, and the order in which things are measured
subjects.py           what is measured: known models, and the real shapes with random weights
random_checkpoint.py  those shapes and weights
rooms.py              people who press the button at the same moment
limits.py             what the machine itself can do
start.py              from a fresh process to the first tokens, with start_child.py
peers.py              other engines, through stentor.peers
report.py             figures as lines for people and as JSON
"""

from stentor.bench.command import add_bench_arguments, run_bench

__all__ = ["add_bench_arguments", "run_bench"]
