"""Fused fp32 operators of a training step on a CPU, compiled by Numba.

`team` runs them on PyTorch's own threads, `tile` is the innermost product of `attention`, `rows`
holds what works row by row. They know addresses and sizes; autograd is in training/fused.py.
"""
