"""Columns of numbers that grow with a run: one row an event, thinned and cut for a browser.

A table holds the rows of one kind of event; a curve is one of its columns. Rows never go back in
tokens: what a resumed run repeats replaces what it had before. The older rows of a very long run
are thinned, so that the memory is bounded. Knows no event.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT_DIGITS = 6
# Of one table, about 140 bytes each; beyond, the rows so far are thinned to half or fewer.
MAX_ROWS = 200_000
MAX_COLUMNS = 300  # 64 GPUs with four curves each, and some more
AXES = ("tokens", "steps", "time")
Numbers = NDArray[np.float64]


class Point(NamedTuple):
    """One value of a curve; `tokens` is cumulative over the whole run, `step` counts in a stage."""

    tokens: float
    value: float
    stage: str
    step: int


class Place(NamedTuple):
    """Where on the x axes something is: cumulative tokens and steps, seconds of training."""

    tokens: float
    steps: float
    time: float

    def on(self, axis: str) -> float:
        """Return the place on one of AXES."""
        return float(self[AXES.index(axis)])


@dataclass
class Column:
    """The values of one curve, with the numbers of the rows that have one."""

    rows: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def cut(self, num_rows: int) -> None:
        """Forget what stands in rows from `num_rows` on."""
        kept = bisect_right(self.rows, num_rows - 1)
        del self.rows[kept:]
        del self.values[kept:]

    def renumber(self, rows: NDArray[np.int64]) -> None:
        """Keep what stands in `rows` only; their places in it are their new numbers."""
        before = np.array(self.rows)
        is_kept = np.isin(before, rows)
        values = np.array(self.values)[is_kept]
        numbers = np.searchsorted(rows, before[is_kept]).astype(np.int64)
        self.rows, self.values = array("q", numbers.tobytes()), array("d", values.tobytes())


class Table:
    """Rows of events with their places; `order` numbers the events of a whole run from 1."""

    def __init__(self) -> None:
        self.columns: dict[str, Column] = {}
        self._axes: dict[str, array[float]] = {axis: array("d") for axis in AXES}
        self._orders: array[int] = array("q")
        self._stages: list[str] = []
        self._steps: array[int] = array("q")
        self._firsts: dict[str, int] = {}  # stage -> its first row; a stage's rows are together

    def __len__(self) -> int:
        return len(self._orders)

    def add(
        self, place: Place, order: int, stage: str, step: int, values: dict[str, float]
    ) -> None:
        """Append a row; an earlier row of the same step is replaced, later ones are forgotten."""
        self.forget_after(place.tokens)
        if self._orders and (self._stages[-1], self._steps[-1]) == (stage, step):
            self._cut(len(self) - 1)
        self.append(place, order, stage, step, values)

    def append(
        self, place: Place, order: int, stage: str, step: int, values: dict[str, float]
    ) -> None:
        """Append a row, whatever stands before it."""
        if len(self) >= MAX_ROWS:
            self._thin_out()
        row = len(self)
        for axis, x in zip(AXES, place, strict=True):
            self._axes[axis].append(x)
        self._orders.append(order)
        self._stages.append(stage)
        self._steps.append(step)
        self._firsts.setdefault(stage, row)
        for name, value in values.items():
            column = self.columns.get(name)
            if column is None:
                if len(self.columns) >= MAX_COLUMNS:
                    continue
                column = self.columns[name] = Column()
            column.rows.append(row)
            column.values.append(value)

    def forget_after(self, tokens: float) -> bool:
        """Forget the rows beyond `tokens`; return whether there were any."""
        known = self._axes["tokens"]
        if not known or known[-1] <= tokens:
            return False
        num_rows = bisect_right(known, tokens)
        self._cut(num_rows)
        return True

    def last_place(self) -> Place | None:
        """Return where the newest row is."""
        return Place(*(self._axes[axis][-1] for axis in AXES)) if self._orders else None

    def points(self, name: str) -> list[Point]:
        """Return a whole curve."""
        column = self.columns.get(name, Column())
        return [self._point(column, number) for number in range(len(column.rows))]

    def last(self, name: str, stage: str | None = None) -> Point | None:
        """Return the newest point of a curve, of one stage if given."""
        column = self.columns.get(name, Column())
        first, end = self._rows_of(stage)
        number = bisect_left(column.rows, end) - 1
        return self._point(column, number) if number >= bisect_left(column.rows, first) else None

    def first(self, name: str, stage: str) -> Point | None:
        """Return a stage's first point of a curve."""
        column = self.columns.get(name, Column())
        first, end = self._rows_of(stage)
        number = bisect_left(column.rows, first)
        return self._point(column, number) if number < bisect_left(column.rows, end) else None

    def at(self, name: str, stage: str, step: int) -> float | None:
        """Return the value of a curve at a step of a stage."""
        column = self.columns.get(name, Column())
        first, end = self._rows_of(stage)
        row = bisect_left(self._steps, step, first, end)
        if row == end or self._steps[row] != step:
            return None
        number = bisect_left(column.rows, row)
        is_there = number < len(column.rows) and column.rows[number] == row
        return column.values[number] if is_there else None

    def not_finite(self, name: str) -> tuple[int, Point] | None:
        """Return how many values of a curve are NaN or infinite, and the first of them."""
        column = self.columns[name]
        bad = np.flatnonzero(~np.isfinite(np.array(column.values)))
        return (len(bad), self._point(column, int(bad[0]))) if len(bad) else None

    def curve(
        self, name: str, axis: str, limit: int, stretch: tuple[float, float] | None = None
    ) -> dict[str, list[Any]]:
        """Return x and y of a curve as plain lists, at most `limit` points of a stretch of x.

        One point on either side of the stretch is kept, so that the line goes on to the edges.
        """
        column = self.columns[name]
        rows = np.array(column.rows, np.int64)
        x = np.array(self._axes[axis])[rows]
        y = np.array(column.values)
        if stretch:
            first = max(0, int(np.searchsorted(x, stretch[0], "left")) - 1)
            last = int(np.searchsorted(x, stretch[1], "right")) + 1
            x, y = x[first:last], y[first:last]
        places = thin(y, limit)
        return to_json(x[places], y[places])

    def curve_after(self, name: str, axis: str, order: int) -> dict[str, list[Any]]:
        """Return the points of a curve that events after `order` brought."""
        column = self.columns[name]
        first = bisect_right(column.rows, bisect_right(self._orders, order) - 1)
        x = [self._axes[axis][row] for row in column.rows[first:]]
        return to_json(np.array(x), np.array(column.values[first:]))

    def num_after(self, order: int) -> int:
        """Return how many rows events after `order` brought."""
        return len(self) - bisect_right(self._orders, order)

    def _cut(self, num_rows: int) -> None:
        for values in self._axes.values():
            del values[num_rows:]
        del self._orders[num_rows:], self._stages[num_rows:], self._steps[num_rows:]
        self._firsts = {stage: row for stage, row in self._firsts.items() if row < num_rows}
        for column in self.columns.values():
            column.cut(num_rows)

    def _rows_of(self, stage: str | None) -> tuple[int, int]:
        """Return the first row of a stage and the one after its last; None: all rows."""
        if stage is None:
            return (0, len(self))
        first = self._firsts.get(stage)
        if first is None:
            return (0, 0)
        later = (row for row in self._firsts.values() if row > first)
        return (first, min(later, default=len(self)))

    def _thin_out(self) -> None:
        """Keep the rows that hold an extreme of a curve or an end of a stage, forget the others."""
        limit = max(4, MAX_ROWS // (2 * max(1, len(self.columns))))
        firsts = np.array(list(self._firsts.values()), np.int64)
        kept = [firsts, firsts[1:] - 1, np.array([len(self) - 1])]
        for column in self.columns.values():
            places = thin(np.array(column.values), limit)
            kept.append(np.array(column.rows)[places])
        rows = np.unique(np.concatenate(kept)).astype(np.int64)
        for axis, values in self._axes.items():
            self._axes[axis] = array("d", np.array(values)[rows].tobytes())
        self._orders = array("q", np.array(self._orders)[rows].tobytes())
        self._steps = array("q", np.array(self._steps)[rows].tobytes())
        self._stages = [self._stages[row] for row in rows.tolist()]
        self._firsts = {
            stage: int(np.searchsorted(rows, row)) for stage, row in self._firsts.items()
        }
        for column in self.columns.values():
            column.renumber(rows)

    def _point(self, column: Column, number: int) -> Point:
        row = column.rows[number]
        tokens = self._axes["tokens"][row]
        return Point(tokens, column.values[number], self._stages[row], self._steps[row])


def thin(values: Numbers, limit: int) -> NDArray[np.int64]:
    """Return the places of at most `limit` values: the lowest and the highest of every stretch.

    A value that is not finite stays too, in place of the lowest: a gap must not be smoothed away.
    The first and the last value are kept.
    """
    length = len(values)
    if length <= limit:
        return np.arange(length)
    size = math.ceil(2 * (length - 2) / (limit - 2))
    num_stretches = math.ceil((length - 2) / size)
    padded = np.full(num_stretches * size, np.nan)
    padded[: length - 2] = values[1:-1]
    is_real = (np.arange(len(padded)) < length - 2).reshape(num_stretches, size)
    table = padded.reshape(num_stretches, size)
    is_finite = np.isfinite(table)
    lowest = np.where(is_finite, table, np.inf).argmin(axis=1)
    highest = np.where(is_finite, table, -np.inf).argmax(axis=1)
    is_bad = is_real & ~is_finite
    lowest = np.where(is_bad.any(axis=1), is_bad.argmax(axis=1), lowest)
    starts = 1 + size * np.arange(num_stretches)
    return np.unique(np.concatenate([[0], starts + lowest, starts + highest, [length - 1]]))


def to_json(x: Numbers, y: Numbers) -> dict[str, list[Any]]:
    """Return plain lists; a value that is not finite becomes None, which is drawn as a gap."""
    return {
        "x": [round(value, 3) for value in x.tolist()],
        "y": [finite_or_none(value) for value in y.tolist()],
    }


def finite_or_none(value: float | None) -> float | None:
    """Return the value with six digits, or None: JSON has no NaN."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def as_number(value: object) -> float | None:
    """Return a float (NaN included) for a JSON number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None


def as_finite(value: object) -> float | None:
    """Return a float for a JSON number that is neither NaN nor infinite, else None."""
    number = as_number(value)
    return number if number is not None and math.isfinite(number) else None
