"""What one step of a Llama costs on a processor, compiled by Numba; no file here knows the engine.

compiled.py   the compiler's settings, and where compiled code is kept
tile.py       rows x columns of a packed matrix: the innermost loop
amx.py        the same products on the tile unit of server processors
packing.py    a checkpoint's tensors -> packed int8 or fp32 matrices
kernels.py    norms, activations, rotation
linear.py     rows times a packed matrix
attention.py  the slot cache, and what a row attends to
team.py       several threads that meet between the parts of a step
forward.py    rows of tokens + slot cache -> logits
draw.py       logits -> the token drawn or measured, its rank, its alternatives
step.py       the one function that Python calls
"""
