"""Keys and values: one row per request, preallocated for the whole context, and a bounded pool.

The size of a row is known at start; rows are made when first needed and used again.
"""

import torch
from torch import Tensor

from stentor.loading import LlamaShape


class CacheRow:
    """The keys and values of one request; positions below `length` are filled."""

    def __init__(self, shape: LlamaShape, capacity: int) -> None:
        size = (shape.num_layers, shape.num_key_value_heads, capacity, shape.head_dim)
        self.keys: Tensor = torch.empty(size)
        self.values: Tensor = torch.empty(size)
        self.length = 0


class CachePool:
    """At most `max_rows` rows of `capacity` tokens. Not thread-safe: its worker owns it."""

    def __init__(self, shape: LlamaShape, capacity: int, max_rows: int) -> None:
        self._shape = shape
        self._capacity = capacity
        self._max_rows = max_rows
        self._num_rows = 0
        self._free: list[CacheRow] = []

    def take(self) -> CacheRow:
        """Return an empty row; the caller gives it back."""
        if self._free:
            row = self._free.pop()
            row.length = 0
            return row
        assert self._num_rows < self._max_rows, "more rows taken than the pool may hold"
        row = CacheRow(self._shape, self._capacity)
        self._num_rows += 1
        return row

    def give_back(self, row: CacheRow) -> None:
        """Make the row free for another request."""
        self._free.append(row)
