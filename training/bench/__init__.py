"""How fast and how large training is here: `python -m training bench`.

command.py       flags, the order in which things are measured, the JSON line
plan.py          what is asked for, and what parent and children say to each other
subjects.py      the models, their windows, and the text that is measured
children.py      one child process per figure, so that nothing of one is left in another
child.py         the child: `python -m training.bench.child`
own_loop.py      our loop in a child
trainer_peer.py  transformers.Trainer in a child
own_data.py      our preparation of text in a child
datasets_peer.py datasets.map in a child
clock.py         the seconds of steps, the same for every loop
memory_watch.py  the memory of a process and its children
ceiling.py       the largest matrix product rate of the machine, in a child
speed.py         tokens per second and peak memory of all loops
data_speed.py    text per second, and memory over the size of a corpus
measure.py       all parts, one after the other
report.py        figures as lines for people and as JSON
"""
